#!/bin/sh
# Makes the sealed secrets of this example with a key of your own, in ../keys or
# SEALWARD_KEYRING. Those in Git were sealed for a key that was thrown away.
#
#   GIT_PASSWORD=… sh seal.sh
set -eu
cd "$(dirname "$0")"
export SEALWARD_KEYRING="${SEALWARD_KEYRING:-$PWD/../keys}"
rm -rf .sops.yaml .gitattributes workspaces instance
sealward init .
rm -rf instance
sealward workspace create platform --no-recovery
rmdir workspaces/platform/grants 2> /dev/null || true
printf %s "${GIT_PASSWORD:-change-me}" | sealward create secret git-r -w platform --type key-value --acl r --owner platform --from-literal username=sealward --from-file password=-
sealward create secret webhook-r -w platform --type key-value --acl r --owner platform --generate secret=40
