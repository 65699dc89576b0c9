#!/bin/sh
# Review what a branch changes, without any key: review.sh BASE [COMMENT]
#
# BASE is the revision that the branch is to be merged into ($BASE when it is not given).
# COMMENT (comment.md) becomes a comment for the pull request, without a value in it.
# The exit code is that of sealward check: 0 clean, 3 findings, others: it could not look.
set -eu
base=${1:-${BASE:?names the revision that the branch is merged into}}
comment=${2:-comment.md}

# A branch may bring a file of that name, or a link to another file.
rm -f "$comment"

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

# cut BYTES COMMAND: Git hosts refuse a comment of more than 64 KiB, and no part may push the
# others out of it.
cut() {
	awk -v max="$1" -v command="$2" '
		(size += length($0) + 1) > max { print "\n_Cut here; run `" command "` for the rest._"; exit }
		{ print }'
}

{
	# The first line is how comment-*.sh finds the comment again.
	echo '<!-- sealward -->'
	if [ "$code" = 0 ]; then
		printf '**sealward check** finds nothing wrong.\n\n'
	else
		printf '**sealward check** has findings:\n\n'
		# Indented, and not between fences, which a name could end.
		sed 's/^/    /' "$work/check" | cut 15000 'sealward check'
		echo
	fi
	cut 20000 'sealward diff' < "$work/diff"
	echo
	cut 25000 'sealward access-diff' < "$work/access"
} > "$comment"
exit "$code"
