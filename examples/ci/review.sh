#!/bin/sh
# Review what a branch changes, without any key: review.sh BASE [COMMENT]
#
# BASE is the revision that the branch is to be merged into ($BASE when it is not given).
# COMMENT (comment.md) becomes a comment for the pull request, without a value in it.
# The exit code is that of sealward check: 0 clean, 3 findings, others: it could not look.
set -eu
base=${1:-${BASE:?names the revision that the branch is merged into}}
comment=${2:-comment.md}

# Where the branch left it: what the base got since is not this branch's change.
from=$(git merge-base "$base" HEAD) || {
	echo "review: $base and HEAD have no commit in common here; check out the whole history (fetch-depth: 0)" >&2
	exit 2
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

code=0
sealward check --base "$from" > "$work/check" 2> "$work/said" || code=$?
cat "$work/check" "$work/said" >&2
case $code in
0 | 3) ;;
*) exit "$code" ;;
esac
sealward diff "$from..HEAD" -o markdown > "$work/diff"
sealward access-diff "$from..HEAD" -o markdown > "$work/access"

{
	# The first line is how comment-*.sh finds the comment again.
	echo '<!-- sealward -->'
	if [ "$code" = 0 ]; then
		printf '**sealward check** finds nothing wrong.\n\n'
	else
		printf '**sealward check** has findings:\n\n'
		# Indented, and not between fences, which a name could end.
		sed 's/^/    /' "$work/check"
		echo
	fi
	cat "$work/diff"
	echo
	cat "$work/access"
} | awk '
	# Git hosts refuse a comment of more than 64 KiB.
	(size += length($0) + 1) > 60000 { print "\n_Cut here; run `sealward diff` and `sealward access-diff` for the rest._"; exit }
	{ print }
' > "$comment"
exit "$code"
