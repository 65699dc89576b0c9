#!/bin/sh
# Makes the secrets of this example with keys of your own, in ../keys or SEALWARD_KEYRING.
# Those in Git were sealed for keys that were thrown away.
set -eu
cd "$(dirname "$0")"
export SEALWARD_KEYRING="${SEALWARD_KEYRING:-$PWD/../keys}"
rm -rf .sops.yaml .gitattributes workspaces instance
sealward init .
rm -rf instance
for workspace in orders payments; do
	sealward workspace create "$workspace" --no-recovery
	rmdir "workspaces/$workspace/grants" 2> /dev/null || true
done
sealward create secret orders-db-r -w orders --type key-value --acl r --from-literal username=orders --generate password=24
sealward create secret orders-dev-r -w orders --type key-value --acl r --generate password=24
sealward create secret gateway-rw -w payments --type key-value --acl rw --generate token=40
