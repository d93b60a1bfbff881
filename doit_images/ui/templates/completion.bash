# for bash; in ~/.bashrc: source <(doit completion bash)
_doit_images() {
    local line=${COMP_LINE:0:COMP_POINT} word words
    read -ra words <<<"$line"
    [[ $line != *[[:space:]] ]] || words+=("")
    local begun=${words[-1]}
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        COMPREPLY+=("${word#"${begun%"${begun##*:}"}"}")  # for bash a colon ends a word
    done < <(sh -c SCRIPT sh "${words[0]}" "$begun" "${words[@]:1:${#words[@]}-2}")
}
complete -o default -F _doit_images doit doitw
