package unsealtest

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// LogLines remembers which messages the tests of a package saw logged. The zero
// value is ready.
type LogLines struct {
	mu   sync.Mutex
	seen map[string]bool
}

// To logs to w as text.
func (l *LogLines) To(w io.Writer) *slog.Logger {
	return slog.New(noting{slog.NewTextHandler(w, nil), l})
}

// Run runs the tests of a package, and fails when they are all run and one of the
// messages that the package logs was not seen. except are those that no test on
// this machine can bring about.
func (l *LogLines) Run(m *testing.M, all bool, except ...string) int {
	code := m.Run()
	if !all || code != 0 {
		return code
	}
	messages, err := LogMessages(".")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, message := range messages {
		if !l.seen[message] && !slices.Contains(except, message) {
			fmt.Printf("no test has seen the log line %q\n", message)
			code = 1
		}
	}
	return code
}

type noting struct {
	slog.Handler
	lines *LogLines
}

func (h noting) Handle(ctx context.Context, r slog.Record) error {
	h.lines.mu.Lock()
	if h.lines.seen == nil {
		h.lines.seen = map[string]bool{}
	}
	h.lines.seen[r.Message] = true
	h.lines.mu.Unlock()
	return h.Handler.Handle(ctx, r)
}

func (h noting) WithAttrs(attrs []slog.Attr) slog.Handler {
	return noting{h.Handler.WithAttrs(attrs), h.lines}
}

func (h noting) WithGroup(name string) slog.Handler {
	return noting{h.Handler.WithGroup(name), h.lines}
}

// LogMessages lists what the package in dir logs: the first argument of each call
// of Info, Warn or Error on something named log, Log or logger. A message that is
// no constant is an error.
func LogMessages(dir string) (messages []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isLog(call.Fun) || len(call.Args) == 0 {
				return true
			}
			text := ""
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				text, _ = strconv.Unquote(lit.Value)
			}
			if text == "" {
				err = fmt.Errorf("%s: the message of a log line must be a constant", set.Position(call.Pos()))
			}
			messages = append(messages, text)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(messages)
	return slices.Compact(messages), nil
}

func isLog(fun ast.Expr) bool {
	method, ok := fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
		return false
	}
	name := ""
	switch on := method.X.(type) {
	case *ast.SelectorExpr:
		name = on.Sel.Name
	case *ast.Ident:
		name = on.Name
	}
	return strings.EqualFold(name, "log") || strings.EqualFold(name, "logger")
}
