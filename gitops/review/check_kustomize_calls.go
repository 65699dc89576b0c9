package review

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// stockBuild is a place that has stock kustomize build something.
type stockBuild struct {
	path         string
	line, column int
	field        string
	by           string // who builds, as a finding names it
	// target as it stands; "" when it cannot be told.
	target string
	// What is wrong with the call when it comes upon a generator.
	problem, remedy string
	anyGenerator    bool // generators of ours without a program are a problem too
	argo            bool // is well when Argo CD's options are
}

// isScript reports files of shell and make by their names.
func isScript(p string) bool {
	base := path.Base(p)
	switch strings.ToLower(path.Ext(base)) {
	case ".sh", ".bash", ".zsh", ".mk", ".just":
		return true
	case "":
		return true // Makefile, Jenkinsfile, or a script with #!
	}
	return strings.HasPrefix(base, "Makefile") || strings.HasPrefix(base, "Jenkinsfile") || strings.HasPrefix(base, "Dockerfile") || strings.HasPrefix(base, "Containerfile")
}

// What both flags do (kustomize 5.8.1): without --enable-alpha-plugins a build with a
// generator of ours fails; with it and without --enable-exec the generator is left out, and
// the build succeeds. kubectl has no --enable-exec.
const (
	alphaFlag = "--enable-alpha-plugins"
	execFlag  = "--enable-exec"
)

const flagsRemedy = "add " + alphaFlag + " " + execFlag + ", or use sealward build, which needs neither"

// callsIn finds the builds that a script, workflow or manifest has done.
func (l *kustomizeLint) callsIn(file string, data []byte) {
	if !isNotation(file) {
		l.lines(file, 1, string(data))
		return
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	for range 1000 { // documents
		var doc yaml.Node
		if err := d.Decode(&doc); err != nil {
			return
		}
		if len(doc.Content) == 1 {
			l.manifest(file, doc.Content[0])
			l.scalars(file, doc.Content[0], 0)
		}
	}
}

// scalars looks for shell lines in the texts of a YAML document.
func (l *kustomizeLint) scalars(file string, n *yaml.Node, depth int) {
	if depth > 64 {
		return
	}
	switch n.Kind {
	case yaml.ScalarNode:
		line := n.Line
		if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			line++ // a block starts below its | or >
		}
		l.lines(file, line, n.Value)
	case yaml.SequenceNode:
		if words := wordsIn(n); len(words) > 1 {
			l.command(file, n.Line, words)
		}
		for _, item := range n.Content {
			l.scalars(file, item, depth+1)
		}
	case yaml.MappingNode:
		// A container's command and args are one command line.
		if command, args := wordsIn(sub(n, "command")), wordsIn(sub(n, "args")); len(command) == 1 && len(args) > 0 {
			l.command(file, sub(n, "command").Line, append(command, args...))
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			if key.Value == "kustomizeBuildOptions" || key.Value == "kustomize.buildOptions" || strings.HasPrefix(key.Value, "kustomize.buildOptions.") {
				l.argoBuildOptions(file, key, v)
				continue
			}
			l.scalars(file, v, depth+1)
		}
	}
}

// wordsIn lists the texts of a list, nil where it is none.
func wordsIn(n *yaml.Node) (out []string) {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return nil
		}
		out = append(out, item.Value)
	}
	return out
}

// argoBuildOptions is the setting that Argo CD calls kustomize with.
func (l *kustomizeLint) argoBuildOptions(file string, key, v *yaml.Node) {
	words := strings.Fields(v.Value)
	if has(words, alphaFlag) && has(words, execFlag) {
		l.argoOptions = true
		return
	}
	l.calls = append(l.calls, stockBuild{path: file, line: v.Line, column: v.Column, field: key.Value, by: "Argo CD", problem: flagProblem(has(words, alphaFlag)), remedy: "add " + alphaFlag + " " + execFlag})
}

// manifest looks at the objects that have a controller build a kustomization.
func (l *kustomizeLint) manifest(file string, doc *yaml.Node) {
	version, kind, spec := textOf(doc, "apiVersion"), textOf(doc, "kind"), sub(doc, "spec")
	switch {
	case strings.HasPrefix(version, "argoproj.io/") && kind == "ApplicationSet":
		l.argoSources(file, sub(sub(spec, "template"), "spec"))
	case strings.HasPrefix(version, "argoproj.io/") && kind == "Application":
		l.argoSources(file, spec)
	case strings.HasPrefix(version, "kustomize.toolkit.fluxcd.io/") && kind == "Kustomization":
		if sub(spec, "decryption") != nil {
			l.fluxDecrypts = true
		}
		if at := sub(spec, "path"); at != nil {
			l.calls = append(l.calls, stockBuild{path: file, line: at.Line, column: at.Column, field: "spec.path", by: "Flux", target: rooted(at.Value), anyGenerator: true,
				problem: "it runs no generators but kustomize's own, so the build fails", remedy: "let the agent or Flux's decryption unseal instead: docs/kustomize.md"})
		}
	}
}

// rooted is a path from the top of a repository, as Argo CD and Flux have it.
func rooted(p string) string { return "/" + strings.TrimPrefix(path.Clean(p), "/") }

func (l *kustomizeLint) argoSources(file string, spec *yaml.Node) {
	sources := []*yaml.Node{sub(spec, "source")}
	if list := sub(spec, "sources"); list != nil && list.Kind == yaml.SequenceNode {
		sources = append(sources, list.Content...)
	}
	for _, s := range sources {
		if at := sub(s, "path"); at != nil && sub(s, "plugin") == nil {
			l.calls = append(l.calls, stockBuild{path: file, line: at.Line, column: at.Column, field: "source.path", by: "Argo CD", target: rooted(at.Value), argo: true,
				problem: "it calls kustomize without " + alphaFlag + " and " + execFlag + " as long as kustomize.buildOptions in argocd-cm does not name them", remedy: "use the plugin in examples/argocd, or the agent: docs/kustomize.md"})
		}
	}
}

// lines looks for calls in shell text; line is that of its first.
func (l *kustomizeLint) lines(file string, line int, text string) {
	if !strings.Contains(text, "kustomize") && !strings.Contains(text, "KUSTOMIZE") && !strings.Contains(text, "-k") {
		return
	}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		at := line + i
		whole := strings.TrimRight(lines[i], "\r")
		for strings.HasSuffix(whole, "\\") && i+1 < len(lines) {
			i++
			whole = strings.TrimSuffix(whole, "\\") + " " + strings.TrimRight(lines[i], "\r")
		}
		if t := strings.TrimSpace(whole); strings.HasPrefix(t, "#") || strings.HasPrefix(t, "//") {
			continue
		}
		whole = programVariable.ReplaceAllStringFunc(whole, func(s string) string {
			return strings.ToLower(programVariable.FindStringSubmatch(s)[1])
		})
		whole = makeVariable.ReplaceAllString(whole, "$$$1")
		if at := strings.Index(whole, " #"); at >= 0 {
			whole = whole[:at]
		}
		for _, command := range shellEnd.Split(whole, -1) {
			l.command(file, at, strings.Fields(command))
		}
	}
}

var (
	// $(KUSTOMIZE), ${KUBECTL_BIN} and the like.
	programVariable = regexp.MustCompile(`\$[({]?\w*?(KUSTOMIZE|KUBECTL)(?:_BIN|_CMD|_PATH)?\b[)}]?`)
	makeVariable    = regexp.MustCompile(`\$[({](\w+)[)}]`)
	shellEnd        = regexp.MustCompile("[;|&()`]")
	assignment      = regexp.MustCompile(`^\w+=`)
	flagVariable    = regexp.MustCompile(`(?i)\$.*(flag|opt|arg)`)
)

// command is one command line of words.
func (l *kustomizeLint) command(file string, line int, words []string) {
	for len(words) > 0 && (assignment.MatchString(words[0]) || slices.Contains([]string{"sudo", "time", "exec", "env", "then", "do", "else", "if", "!", "-", "xargs", "run:", "RUN", "-n1", "-r"}, strings.TrimLeft(words[0], "@-"))) {
		words = words[1:]
	}
	if len(words) < 2 {
		return
	}
	for i, w := range words {
		words[i] = strings.Trim(w, `"'`)
	}
	call := stockBuild{path: file, line: line, by: words[0], remedy: flagsRemedy}
	switch program := path.Base(strings.TrimLeft(words[0], "@-")); program {
	case "kustomize":
		if words[1] != "build" {
			return
		}
		call.by = "kustomize build"
		call.target = argument(words[2:])
		if has(words, alphaFlag) && has(words, execFlag) || slices.ContainsFunc(words, flagVariable.MatchString) {
			return
		}
		call.problem = flagProblem(has(words, alphaFlag))
	case "kubectl", "oc":
		folder, ok := kubectlFolder(words[1:])
		if !ok {
			return
		}
		call.by, call.target = program, folder
		call.problem = program + " cannot run programs for a build"
		if has(words, alphaFlag) {
			call.problem += ", and with " + alphaFlag + " it leaves them out in silence"
		}
		call.remedy = "pipe sealward build into " + program + " apply -f -"
	default:
		return
	}
	l.calls = append(l.calls, call)
}

func flagProblem(alpha bool) string {
	if alpha {
		return execFlag + " is missing: generators are left out in silence"
	}
	return alphaFlag + " and " + execFlag + " are missing: the build fails"
}

// has reports a boolean flag.
func has(words []string, flag string) bool {
	return slices.ContainsFunc(words, func(w string) bool {
		return w == flag || w == flag+"=true" || strings.ReplaceAll(w, "_", "-") == flag
	})
}

// argument is the folder among the words after build: the first that is no flag and no
// flag's value.
func argument(words []string) string {
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case slices.Contains([]string{"-o", "--output", "--load-restrictor", "-e", "--env", "--mount", "--network-name", "--helm-command", "--reorder", "--helm-kube-version", "--helm-api-versions"}, w):
			i++
		case strings.HasPrefix(w, ">") || strings.HasPrefix(w, "2>"):
			return "."
		case !strings.HasPrefix(w, "-"):
			return w
		}
	}
	return "."
}

// kubectlFolder is what kubectl builds: of kubectl kustomize DIR, and of -k DIR.
func kubectlFolder(words []string) (folder string, ok bool) {
	for i, w := range words {
		switch {
		case w == "kustomize":
			return argument(words[i+1:]), true
		case (w == "-k" || w == "--kustomize") && i+1 < len(words):
			return words[i+1], true
		case strings.HasPrefix(w, "--kustomize="):
			return strings.TrimPrefix(w, "--kustomize="), true
		case strings.HasPrefix(w, "-k") && len(w) > 2 && !strings.HasPrefix(w, "--"):
			return strings.TrimPrefix(w[2:], "="), true
		}
	}
	return "", false
}

// stockBuilds reports the calls that build a tree with generators that they do not run.
func (l *kustomizeLint) stockBuilds() {
	l.folders = slices.Sorted(maps.Keys(l.kustomizations))
	for _, c := range l.calls {
		if c.argo && l.argoOptions || !l.builds(c) {
			continue
		}
		what := "a generator of sealed Secrets"
		if c.target != "" && l.kustomizations[l.folder(c)] != nil {
			what = fmt.Sprintf("the generator in %s", l.folder(c))
		}
		l.add(KustomizeFlags, c.path, c.line, c.column, c.field, fmt.Sprintf("%s comes upon %s; %s", c.by, what, c.problem), c.remedy)
	}
}

// folder that a call builds, "" where it cannot be told.
func (l *kustomizeLint) folder(c stockBuild) string {
	if strings.ContainsAny(c.target, "${") || strings.Contains(c.target, "://") || c.target == "" {
		return ""
	}
	if p, ok := strings.CutPrefix(c.target, "/"); ok {
		return path.Clean("./" + p)
	}
	for _, from := range []string{".", path.Dir(c.path)} {
		if p := path.Join(from, c.target); l.kustomizations[p] != nil {
			return p
		}
	}
	if p := path.Clean(c.target); p != "." { // from a folder that the script went to
		for _, dir := range l.folders {
			if strings.HasSuffix(dir, "/"+strings.TrimLeft(p, "./")) {
				return dir
			}
		}
	}
	return ""
}

// builds reports that a call can come upon a generator that it does not run.
func (l *kustomizeLint) builds(c stockBuild) bool {
	if dir := l.folder(c); dir != "" {
		return l.reaches(dir, c.anyGenerator)
	}
	switch {
	case strings.Contains(c.target, "://") || strings.Contains(c.target, "?ref="):
		return false // another repository's
	case c.target == "" || c.target == "." || strings.ContainsAny(c.target, "$"):
		return l.reaches(anywhere, c.anyGenerator)
	}
	return false
}
