#!/bin/sh
# Review what a branch changes, without any key: review.sh BASE [COMMENT]
#
# BASE is the revision that the branch is to be merged into ($BASE when it is not given).
# COMMENT (comment.md) becomes a comment for the pull request, without a value in it.
# SEALWARD_REPO is the folder of the sealed repository, where that is not the clone's top.
# SEALWARD_CHECK_FLAGS are more flags for sealward check, split at blanks:
#   --fail-on warning                  to fail on warnings, too
#   --ignore grant-widens-instance     to leave a check out
# The exit code is that of sealward check: 0 no errors, 3 errors, others: it could not look.
set -eu
base=${1:-${BASE:?names the revision that the branch is merged into}}
comment=${2:-comment.md}
repo=${SEALWARD_REPO:-.}

stop() {
	echo "review: $*" >&2
	exit 2
}

# A branch may bring a file of that name, or a link to another file.
rm -f "$comment"

[ -d "$repo" ] || stop "SEALWARD_REPO: there is no folder $repo here"
tip=$(git rev-parse --quiet --verify --end-of-options "$base^{commit}") ||
	stop "there is no revision $base here; is its name right, and was it fetched (fetch-depth: 0)?"
# Where the branch left it: what the base got since is not this branch's change.
from=$(git merge-base "$tip" HEAD) ||
	stop "$base and HEAD have no commit in common here; check out the whole history (fetch-depth: 0)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What a change that was meant causes is a warning: it is told, and people decide. Of a
# flag that is given twice, the last one counts.
code=0
# shellcheck disable=SC2086 # flags are split on purpose, but are no patterns
(
	set -f
	exec sealward --repo "$repo" check --fail-on error ${SEALWARD_CHECK_FLAGS:-} --base "$from"
) > "$work/check" 2> "$work/said" || code=$?
cat "$work/check" "$work/said" >&2
case $code in
0 | 3) ;;
*) exit "$code" ;;
esac
sealward --repo "$repo" diff "$from..HEAD" -o markdown > "$work/diff"
sealward --repo "$repo" access-diff "$from..HEAD" -o markdown > "$work/access"

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
	if [ "$code" != 0 ]; then
		printf '**sealward check** has findings:\n\n'
	elif [ -s "$work/check" ]; then
		printf '**sealward check** has warnings:\n\n'
	else
		printf '**sealward check** finds nothing wrong.\n\n'
	fi
	# Indented, and not between fences, which a name could end.
	sed 's/^/    /' "$work/check" | cut 15000 'sealward check'
	echo
	cut 20000 'sealward diff' < "$work/diff"
	echo
	cut 25000 'sealward access-diff' < "$work/access"
} > "$comment"
exit "$code"
