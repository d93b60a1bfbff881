# What a shell may offer next: lines of a word, a tab, what it is. Arguments: the command as typed, the word that is
# begun, the words between. What the dodo file and the Compose files give is asked of doit once, and kept until one of
# them is newer.
command=$1 begun=$2
shift 2
case $command in */*) folder=$(cd "${command%/*}" 2>/dev/null && pwd) ;; *) folder=$PWD ;; esac
[ -f "$folder/dodo.py" ] || exit 0
kept=${XDG_CACHE_HOME:-$HOME/.cache}/doit-images/completion
name=$(printf %s "$folder:${COMPOSE_FILE:-}" | tr / %)
fresh() {
    [ -s "$kept/$name" ] || return 1
    IFS=$(printf '\t')
    read -r _ files <"$kept/$name"
    for file in $files; do
        ! [ "$file" -nt "$kept/$name" ] || return 1
    done
}
if ! fresh; then
    mkdir -p "$kept"
    (cd "$folder" && "$command" _words_for_completion 2>/dev/null) >"$kept/$name.$$" </dev/null
    [ -s "$kept/$name.$$" ] || { rm -f "$kept/$name.$$"; exit 0; }
    mv "$kept/$name.$$" "$kept/$name"
fi
between=$* begun=$begun exec awk '
BEGIN { FS = "\t"; count = split(ENVIRON["between"], between, " "); begun = ENVIRON["begun"] }
function offer(word, about) { if (index(word, begun) == 1) print word "\t" about }
{ kind[NR] = $1; of[NR] = $2; word[NR] = $3; about[NR] = $4 }
$1 == "task" { known[$3] = 1 }
$1 == "takes" { takes[$2] = takes[$2] " " $3 }
END {
    for (at = 1; at <= count; at++) if (between[at] in known) task = between[at]
    for (line = 2; line <= NR; line++) {
        if (substr(begun, 1, 1) == "-") { if (kind[line] == "option" && of[line] == task) offer(word[line], about[line]) }
        else if (takes[task]) { if (index(takes[task] " ", " " kind[line] " ")) offer(word[line], about[line]) }
        else if (kind[line] == "task") offer(word[line], about[line])
    }
}' "$kept/$name"
