# Written from the code: UPDATE_EXPECT=1 cargo test -p lowtide commands
_lowtide() {
	local words=
	case $COMP_CWORD:$2:${COMP_WORDS[1]} in
	1:*) words='--help --version run check config doctor explain init status top log record reflex' ;;
	*:-*:run) words='--help --config --dry-run --verifier-log' ;;
	*:-*:check) words='--help --with --drop-in --root --offline --strict --format --json' ;;
	*:-*:config) words='--help --root --json' ;;
	*:-*:doctor) words='--help --config --json --test --yes' ;;
	*:-*:explain) words='--help --with --drop-in --config --root --json' ;;
	*:-*:init) words='--help --profile --root --write' ;;
	*:-*:status) words='--help --json --openmetrics --output' ;;
	*:-*:top) words='--help' ;;
	*:-*:log) words='--help --boot --since --json --file' ;;
	*:-*:record) words='--help --minutes --every --size' ;;
	*:-*:reflex) words='--help' ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$2")
}
complete -o default -F _lowtide lowtide
