package kustomize

// ksops reads the fields of KSOPS's generator.
func (p *parser) ksops(g *Generator, f *fields) { panic("not yet") }
