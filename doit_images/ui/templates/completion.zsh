# for zsh; in ~/.zshrc, after compinit: source <(doit completion zsh)
_doit_images() {
    local -a offered
    local word about
    while IFS=$'\t' read -r word about; do
        offered+=("${word//:/\\:}:$about")
    done < <(sh -c SCRIPT sh "${words[1]}" "$PREFIX" "${(@)words[2,CURRENT-1]}")
    if (( $#offered )); then _describe doit offered; else _files; fi
}
compdef _doit_images doit doitw
