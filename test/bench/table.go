package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// table is printed with its columns aligned, the first to the left and the
// others to the right.
type table struct {
	title string
	rows  [][]string
	notes []string
}

func newTable(title string, header ...string) *table {
	return &table{title: title, rows: [][]string{header}}
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// note is printed below the table.
func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

func (t *table) print() {
	widths := make([]int, len(t.rows[0]))
	for _, r := range t.rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	fmt.Printf("\n%s\n", t.title)
	for _, r := range t.rows {
		line := "  "
		for i, c := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i == 0 {
				line += c + pad
			} else {
				line += "  " + pad + c
			}
		}
		fmt.Println(strings.TrimRight(line, " "))
	}
	for _, n := range t.notes {
		fmt.Println("  " + n)
	}
}

// span prints a duration with three digits that mean something.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return digits(d.Seconds()*1e6) + " µs"
	case d < time.Second:
		return digits(d.Seconds()*1e3) + " ms"
	}
	return digits(d.Seconds()) + " s"
}

func digits(v float64) string {
	switch {
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return thousands(int(v + 0.5))
}

// thousands prints 12345 as 12,345.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// times is how much longer d takes than base.
func times(d, base time.Duration) string {
	return digits(d.Seconds()/base.Seconds()) + "×"
}

func perSecond(d time.Duration) string { return thousands(int(1/d.Seconds() + 0.5)) }

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// quantile sorts values.
func quantile[T cmp.Ordered](values []T, q float64) T {
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

// timed runs f once.
func timed(f func() error) (time.Duration, error) {
	started := time.Now()
	err := f()
	return time.Since(started), err
}

// interleave runs the jobs in turn, each for a slice of time (or once, where
// that takes longer), in several rounds, so that a noisy moment hits all of
// them. It returns the median over the rounds of how long one run of each took.
func interleave(rounds int, slice time.Duration, jobs []func() error) ([]time.Duration, error) {
	spent := make([][]time.Duration, len(jobs))
	for range rounds {
		for i, job := range jobs {
			started, n := time.Now(), 0
			for n == 0 || time.Since(started) < slice {
				if err := job(); err != nil {
					return nil, err
				}
				n++
			}
			spent[i] = append(spent[i], time.Since(started)/time.Duration(n))
		}
	}
	out := make([]time.Duration, len(jobs))
	for i := range jobs {
		out[i] = median(spent[i])
	}
	return out, nil
}
