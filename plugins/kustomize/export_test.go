package kustomize

// PrintKustomization is for tests.
var PrintKustomization = printKustomization
