//go:build tools

// Package cluster pins what make control-plane builds: the API server of Kubernetes and its
// store. It is a module of its own, because they need several hundred packages that
// sealward does not.
package cluster

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
