# for fish: doit completion fish > ~/.config/fish/completions/doit.fish
function _doit_images
    set -l words (commandline -opc)
    sh -c SCRIPT sh $words[1] (commandline -ct) $words[2..-1]
end
complete -c doit -f -a '(_doit_images)'
complete -c doitw -f -a '(_doit_images)'
