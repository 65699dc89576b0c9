#!/bin/sh
# Post the comment on a pull request at GitHub, or refresh it: comment-github.sh NUMBER [COMMENT]
#
# GITHUB_TOKEN may write pull requests' comments; GITHUB_REPOSITORY is owner/name;
# GITHUB_API_URL is the API of an own server. COMMENT_AUTHOR is whose token it is, where
# that is not GitHub Actions.
set -eu
. "$(dirname "$0")/comment-lib.sh"
number=$1
body "${2:-comment.md}"
authorize 'Authorization: Bearer ' "${GITHUB_TOKEN:?is missing}"
issues=${GITHUB_API_URL:-https://api.github.com}/repos/${GITHUB_REPOSITORY:?is missing}/issues

id=$(find_comment "$issues/$number/comments?per_page=100" "${COMMENT_AUTHOR:-github-actions[bot]}")
if [ -n "$id" ]; then
	call PATCH "$issues/comments/$id" "$work/body"
else
	call POST "$issues/$number/comments" "$work/body"
fi
