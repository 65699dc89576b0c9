# shellcheck shell=sh
# What comment-github.sh, comment-gitlab.sh and comment-gitea.sh share. It needs curl
# and jq.

fail() {
	echo "comment: $*" >&2
	exit 1
}

if [ -z "${1:-}" ]; then
	echo "usage: ${0##*/} NUMBER-OF-THE-REQUEST [COMMENT]; review.sh writes the comment" >&2
	exit 2
fi
for tool in curl jq; do
	command -v "$tool" > /dev/null || fail "$tool is missing"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# authorize HEADER-UP-TO-THE-TOKEN TOKEN: every call has this header. It reaches curl
# through a pipe: arguments are public on the machine.
authorize() {
	case $2 in
	'' | *[!A-Za-z0-9_.=+/~-]*) fail "the token is empty or holds characters that no token has" ;;
	esac
	header="$1$2"
}

# call METHOD URL [BODY-FILE]: the answer is in $work/answer.
call() {
	method=$1 url=$2
	if [ $# -gt 2 ]; then
		set -- --header 'Content-Type: application/json' --data-binary "@$3"
	else
		set --
	fi
	status=$(printf 'header = "%s"\n' "$header" |
		curl --config - --silent --show-error --max-time 60 --request "$method" --output "$work/answer" --write-out '%{http_code}' "$@" "$url") ||
		fail "$method $url: no answer"
	case $status in
	2??) return ;;
	401 | 403) hint="; may the token write comments here?" ;;
	404) hint="; is it the right repository and number, and may the token see them?" ;;
	*) hint= ;;
	esac
	fail "$method $url: HTTP $status $(jq -r '.message // .error // "" | tostring | .[:300] | gsub("[[:cntrl:]]"; " ")' "$work/answer" 2> /dev/null)$hint"
}

# find_comment URL AUTHOR...: prints the id of the first comment that starts with the
# marker line and is by one of the authors: anybody can write the marker.
find_comment() {
	list=$1
	shift
	page=1 before=
	while [ "$page" -le 100 ]; do
		call GET "$list&page=$page"
		ids=$(jq -r 'map(.id | tostring) | join(" ")' "$work/answer") || fail "GET $list: the answer is no list of comments"
		# A server that has no pages gives the same again.
		if [ -z "$ids" ] || [ "$ids" = "$before" ]; then
			return
		fi
		id=$(jq -r '[.[] | select((.body // "") | startswith("<!-- sealward -->"))
			| select((.user // .author // {}) | (.login // .username) as $by | $ARGS.positional | index($by))][0].id // empty' "$work/answer" --args "$@")
		if [ -n "$id" ]; then
			echo "$id"
			return
		fi
		before=$ids page=$((page + 1))
	done
}

# body FILE: $work/body is the comment as the APIs take it.
body() {
	[ -s "$1" ] || fail "$1 is missing or empty; review.sh writes it"
	jq --raw-input --slurp '{body: .}' "$1" > "$work/body"
}
