#!/bin/sh
# Post the comment on a pull request at Gitea or Forgejo, or refresh it: comment-gitea.sh NUMBER [COMMENT]
#
# GITEA_TOKEN may write issues; GITHUB_API_URL (https://HOST/api/v1) and GITHUB_REPOSITORY
# (owner/name) are as their Actions set them. COMMENT_AUTHOR is whose token it is, where
# that is not Actions'.
set -eu
. "$(dirname "$0")/comment-lib.sh"
number=$1
body "${2:-comment.md}"
authorize 'Authorization: token ' "${GITEA_TOKEN:?is missing}"
issues=${GITHUB_API_URL:?is missing}/repos/${GITHUB_REPOSITORY:?is missing}/issues

if [ -n "${COMMENT_AUTHOR:-}" ]; then
	set -- "$COMMENT_AUTHOR"
else
	set -- gitea-actions forgejo-actions
fi
id=$(find_comment "$issues/$number/comments?limit=50" "$@")
if [ -n "$id" ]; then
	call PATCH "$issues/comments/$id" "$work/body"
else
	call POST "$issues/$number/comments" "$work/body"
fi
