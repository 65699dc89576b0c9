#!/bin/sh
# Post the comment on a merge request at GitLab, or refresh it: comment-gitlab.sh NUMBER [COMMENT]
#
# GITLAB_TOKEN is a project access token with the scope api (a job's own token cannot
# comment); CI_API_V4_URL and CI_PROJECT_ID are as GitLab CI sets them.
set -eu
. "$(dirname "$0")/comment-lib.sh"
number=$1
body "${2:-comment.md}"
authorize 'PRIVATE-TOKEN: ' "${GITLAB_TOKEN:?is missing}"
api=${CI_API_V4_URL:?is missing}
notes=$api/projects/${CI_PROJECT_ID:?is missing}/merge_requests/$number/notes

call GET "$api/user"
id=$(find_comment "$notes?per_page=100&sort=asc" "$(jq -r .username "$work/answer")")
if [ -n "$id" ]; then
	call PUT "$notes/$id" "$work/body"
else
	call POST "$notes" "$work/body"
fi
