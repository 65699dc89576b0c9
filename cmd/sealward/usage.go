package main

import (
	"errors"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// whenRun calls started before a command does its work: what fails earlier is how
// it was called.
func whenRun(c *cobra.Command, started func()) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			started()
			return run(c, args)
		}
	}
	for _, sub := range c.Commands() {
		whenRun(sub, started)
	}
}

// calledWrong puts cobra's words for a wrong call into ours, with the way to the
// right one.
func calledWrong(c *cobra.Command, err error) error {
	if usage := (usageError{}); errors.As(err, &usage) {
		return err
	}
	text := harmless(err.Error())
	for _, w := range wrongCalls() {
		if m := w.cobra.FindStringSubmatch(text); m != nil {
			text = w.say(c, m)
			break
		}
	}
	return usagef("%s (see %s --help)", text, c.CommandPath())
}

type wrongCall struct {
	cobra *regexp.Regexp
	say   func(c *cobra.Command, match []string) string
}

// wrongCalls are cobra's words, the first that fits, and what is said instead.
func wrongCalls() []wrongCall {
	form := func(c *cobra.Command) string { return "the form is: " + strings.TrimSuffix(c.UseLine(), " [flags]") }
	flags := func(names string) []string {
		return strings.Fields(strings.NewReplacer(`"`, "", ",", "").Replace(names))
	}
	return []wrongCall{
		{regexp.MustCompile(`^(?:accepts|requires) .*arg\(s\)`), func(c *cobra.Command, _ []string) string { return form(c) }},
		{regexp.MustCompile(`(?s)^(unknown command.*) for "sealward"\n\nDid you mean this\?\n(.*)$`), func(_ *cobra.Command, m []string) string {
			return m[1] + "; did you mean " + strings.Join(strings.Fields(m[2]), " or ") + "?"
		}},
		{regexp.MustCompile(`^unknown command.* for "sealward [^"]*"$`), func(c *cobra.Command, _ []string) string {
			return "it takes no argument; " + form(c)
		}},
		{regexp.MustCompile(`^(unknown flag: --([-a-z]+))$`), func(c *cobra.Command, m []string) string { return m[1] + alike(c, m[2]) }},
		{regexp.MustCompile(`^required flag\(s\) (.*) not set$`), func(_ *cobra.Command, m []string) string {
			return "it needs --" + strings.Join(flags(m[1]), " and --")
		}},
		{regexp.MustCompile(`^if any flags in the group \[(.*?)\] are set none`), func(_ *cobra.Command, m []string) string {
			return "--" + strings.Join(flags(m[1]), " and --") + " exclude each other"
		}},
	}
}

// alike names the flags of c that a person may have meant.
func alike(c *cobra.Command, typed string) string {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if len(typed) > 2 && (strings.Contains(f.Name, typed) || strings.Contains(typed, f.Name)) {
			names = append(names, "--"+f.Name)
		}
	})
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}
