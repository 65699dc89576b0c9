package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// sample is a log with every kind of line, a torn write in the middle, and its head.
func sample(t testing.TB) (lines []string, head string) {
	t.Helper()
	path := newLogPath(t)
	l := mustOpen(t, path)
	if _, err := l.Append(t.Context(), Record{Event: Start}); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, "orders-db-r")
	mustClose(t, l)

	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"time":"20`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	l = mustOpen(t, path)
	for i := range 3 {
		mustAppend(t, l, fmt.Sprintf("payments-%d", i))
	}
	l.Unauthenticated(Expired)
	mustClose(t, l)
	l = mustOpen(t, path)
	if _, err := l.Append(t.Context(), Record{Event: Stop}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	_, head = l.Head()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines = strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
	lines[len(lines)-1] += "\n"
	if len(lines) != 9 {
		t.Fatalf("%d lines", len(lines))
	}
	if _, err := verifyLines(lines, head); err != nil {
		t.Fatal(err)
	}
	return lines, head
}

const tornAt = 3 // the line of torn bytes in sample; the record that accounts for it follows

func verifyLines(lines []string, head string) (Summary, error) {
	return Verify(strings.NewReader(strings.Join(lines, "")), VerifyOptions{Head: head})
}

// names: err is a BadRecord in line want. Torn bytes and their record answer for each other.
func names(t *testing.T, what string, err error, want int) {
	t.Helper()
	bad := (*BadRecord)(nil)
	if !errors.As(err, &bad) {
		t.Errorf("%s: error is %v", what, err)
		return
	}
	got := int(bad.Line)
	if got == want || want == tornAt+1 && got == tornAt {
		return
	}
	t.Errorf("%s: named line %d: %v", what, got, err)
}

func TestAnyChangedByteIsNamed(t *testing.T) {
	t.Parallel()
	lines, head := sample(t)
	text := strings.Join(lines, "")
	pos := 0
	for i, line := range lines {
		for j := range len(line) {
			for _, c := range []byte{line[j] ^ 1, []byte{line[j] ^ 0x20, '0', '"', '\n'}[j%4]} {
				if c == line[j] {
					continue
				}
				changed := []byte(text)
				changed[pos+j] = c
				_, err := Verify(bytes.NewReader(changed), VerifyOptions{Head: head})
				names(t, fmt.Sprintf("line %d byte %d %q to %q", i+1, j, line[j], c), err, i+1)
				if t.Failed() {
					return
				}
			}
		}
		pos += len(line)
	}
}

func TestAnyAddedDroppedOrSwappedByteIsNamed(t *testing.T) {
	t.Parallel()
	lines, head := sample(t)
	text, pos := strings.Join(lines, ""), 0
	for i, line := range lines {
		for j := range len(line) {
			at := pos + j
			changed := map[string]string{}
			switch c := []string{"x", "\n", "\x00", line[j : j+1]}[j%4]; {
			case j%3 == 0:
				changed["dropped"] = text[:at] + text[at+1:]
			case j%3 == 1 && j+1 < len(line) && line[j] != line[j+1]:
				changed["swapped with the next"] = text[:at] + line[j+1:j+2] + line[j:j+1] + text[at+2:]
			case c != "\n" || line[j] != '\n': // else an empty line, which is a line of its own
				changed[fmt.Sprintf("%q added before", c)] = text[:at] + c + text[at:]
			}
			for what, text := range changed {
				_, err := Verify(strings.NewReader(text), VerifyOptions{Head: head})
				names(t, fmt.Sprintf("line %d byte %d %s", i+1, j, what), err, i+1)
			}
			if t.Failed() {
				return
			}
		}
		pos += len(line)
	}
}

// Without a head all but the last record are still held by their successors.
func TestAnyChangedByteIsSeenWithoutHead(t *testing.T) {
	t.Parallel()
	lines, _ := sample(t)
	text := strings.Join(lines, "")
	for pos := range len(text) - len(lines[len(lines)-1]) {
		changed := []byte(text)
		changed[pos] ^= 1
		if _, err := Verify(bytes.NewReader(changed), VerifyOptions{}); err == nil {
			t.Fatalf("byte %d changed, and nothing said", pos)
		}
	}
}

// Also one that keeps the spelling: the subject of each record becomes another.
func TestForgedRecordIsNamed(t *testing.T) {
	lines, head := sample(t)
	for i, line := range lines {
		forged := strings.Replace(line, "alice", "mallo", 1)
		if forged == line {
			continue
		}
		changed := append(append(append([]string{}, lines[:i]...), forged), lines[i+1:]...)
		for _, h := range []string{head, ""} {
			_, err := verifyLines(changed, h)
			names(t, fmt.Sprintf("line %d forged", i+1), err, i+1)
		}
	}
}

func TestAnyDroppedLineIsNamed(t *testing.T) {
	lines, head := sample(t)
	for i := range lines {
		changed := append(append([]string{}, lines[:i]...), lines[i+1:]...)
		_, err := verifyLines(changed, head)
		want := i + 1
		switch i + 1 {
		case tornAt: // the record stands in its line
		case len(lines):
			want-- // the line before is the last there is
		}
		names(t, fmt.Sprintf("line %d dropped", i+1), err, want)
	}
}

func TestAnySwappedLinesAreNamed(t *testing.T) {
	lines, head := sample(t)
	for i := range lines {
		for j := i + 1; j < len(lines); j++ {
			changed := append([]string{}, lines...)
			changed[i], changed[j] = changed[j], changed[i]
			_, err := verifyLines(changed, head)
			names(t, fmt.Sprintf("lines %d and %d swapped", i+1, j+1), err, i+1)
		}
	}
}

func TestAnyAddedLineIsNamed(t *testing.T) {
	lines, head := sample(t)
	for at := 0; at <= len(lines); at++ {
		add := func(what, line string, want int) {
			changed := append(append(append([]string{}, lines[:at]...), line), lines[at:]...)
			_, err := verifyLines(changed, head)
			if at == tornAt && want == at+1 { // one text with the torn bytes
				want = tornAt + 1
			}
			names(t, fmt.Sprintf("%s before line %d", what, at+1), err, want)
		}
		for from, line := range lines {
			if from == at { // a copy right before the original: the original is the second
				add("a copy", line, at+2)
			} else {
				add(fmt.Sprintf("a copy of line %d", from+1), line, at+1)
			}
		}
		add("an empty line", "\n", at+1)
		add("junk", "junk\n", at+1)
		if at == tornAt {
			continue // a record there is in the way of the one that accounts for the torn bytes
		}
		// One forged with care: right number, right hash of the one before.
		p := place{0, genesis}
		for _, line := range lines[:at] {
			if r, err := decode([]byte(strings.TrimSuffix(line, "\n"))); err == nil {
				p = place{r.Seq, hashOf([]byte(strings.TrimSuffix(line, "\n")))}
			}
		}
		r := aRead("forged")
		forged, _, err := extend(nil, p, &r, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		if at == tornAt-1 { // the torn record comes next but one
			continue
		}
		add("a forged record", string(forged), at+1)
	}
}

// The odd ones, where the line alone does not tell which answer was given.
func TestNamedRightly(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	chain := func(p place, n int) (out []string) {
		for range n {
			r := aRead("a")
			line, next, err := extend(nil, p, &r, now)
			if err != nil {
				t.Fatal(err)
			}
			out, p = append(out, string(line)), next
		}
		return out
	}
	good := chain(place{0, genesis}, 5)
	changed := func(n int, from, to string) []string {
		out := append([]string{}, good...)
		if out[n-1] = strings.Replace(out[n-1], from, to, 1); out[n-1] == good[n-1] {
			t.Fatalf("%q is not in line %d", from, n)
		}
		return out
	}
	for name, c := range map[string]struct {
		lines     []string
		line, seq uint64
		reason    string
	}{
		"seq raised":                  {changed(3, `"seq":3`, `"seq":7`), 3, 3, "was changed: its seq is 7"},
		"seq lowered":                 {changed(3, `"seq":3`, `"seq":1`), 3, 3, "was changed: its seq is 1"},
		"beginning cut off":           {good[2:], 1, 1, "was dropped or moved"},
		"beginning cut, numbers kept": {chain(place{0, strings.Repeat("1", 64)}, 3), 1, 1, "64 zeros"},
		"no prev, not the first":      {chain(place{1, ""}, 3), 1, 1, "was dropped or moved"},
		"two dropped":                 {append(good[:2:2], good[4:]...), 3, 3, "seq 5 stands in its place"},
		"the last but one changed":    {changed(4, "alice", "mallo"), 4, 4, "or else the record after it"},
		"junk, then cut":              {append(good[:2:2], "junk\n", `{"seq":3`), 3, 3, "up to line 4"},
		"cut":                         {append(good[:2:2], `{"seq":3`), 3, 3, "has no newline"},
		"long and cut":                {append(good[:2:2], strings.Repeat("x", 3*maxRecord)), 3, 3, "has no newline"},
	} {
		_, err := verifyLines(c.lines, "")
		bad := (*BadRecord)(nil)
		if !errors.As(err, &bad) || bad.Line != c.line || bad.Seq != c.seq || !strings.Contains(bad.Reason, c.reason) {
			t.Errorf("%s: %v; want line %d, seq %d, %q", name, err, c.line, c.seq, c.reason)
		}
	}
}

func TestHead(t *testing.T) {
	lines, head := sample(t)
	heads := map[int]string{}
	for i, line := range lines {
		heads[i+1] = hashOf([]byte(strings.TrimSuffix(line, "\n")))
	}

	t.Run("cut off", func(t *testing.T) {
		for n := range len(lines) {
			if n == tornAt {
				continue
			}
			if _, err := verifyLines(lines[:n], ""); err != nil {
				t.Errorf("%d lines without head: %v", n, err)
			}
			sum, err := verifyLines(lines[:n], head)
			names(t, fmt.Sprintf("%d lines", n), err, max(n, 1))
			if sum.HeadSeq != 0 {
				t.Errorf("head found in %d lines: %+v", n, sum)
			}
		}
	})
	t.Run("computed anew", func(t *testing.T) {
		var out []byte
		p := place{0, genesis}
		for i := range 5 {
			r := aRead(fmt.Sprint("nicer-", i))
			var err error
			if out, p, err = extend(out, p, &r, time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Verify(bytes.NewReader(out), VerifyOptions{Head: p.hash}); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(bytes.NewReader(out), VerifyOptions{Head: head})
		names(t, "another chain", err, 5)
	})
	t.Run("older", func(t *testing.T) {
		sum, err := verifyLines(lines, heads[5])
		names(t, "the head of line 5", err, 6)
		if sum.HeadSeq != 4 || sum.Seq != 8 { // line 3 is no record
			t.Errorf("%+v", sum)
		}
		_, err = verifyLines(lines, genesis)
		names(t, "the head of an empty log", err, 1)
	})
	t.Run("no hash", func(t *testing.T) {
		for _, h := range []string{"x", head[1:], strings.ToUpper(head), head + "\n", strings.Repeat("g", 64)} {
			_, err := verifyLines(lines, h)
			if bad := (*BadRecord)(nil); err == nil || errors.As(err, &bad) {
				t.Errorf("head %q: %v", h, err)
			}
		}
	})
}

// A chain whose hashes are all right is still refused where a line has another spelling.
func TestOneSpelling(t *testing.T) {
	rec := aRead("orders-db-r")
	good, _, err := extend(nil, place{0, genesis}, &rec, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(bytes.NewReader(good), VerifyOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]string{
		"unknown field":    {`"prev"`, `"value":"hunter2","prev"`},
		"duplicate field":  {`"status":200`, `"status":200,"status":200`},
		"other case":       {`"status"`, `"Status"`},
		"space":            {`"seq":1`, `"seq": 1`},
		"other order":      {`"decision":"allow","reason":"granted"`, `"reason":"granted","decision":"allow"`},
		"escape":           {`alice`, `\u0061lice`},
		"slash":            {`orders/`, `orders\/`},
		"an empty field":   {`"prev"`, `"torn":"","prev"`},
		"an empty list":    {`"keys":["password","username"]`, `"keys":[]`},
		"null":             {`"keys":["password","username"]`, `"keys":null`},
		"zone":             {`2026-01-01T00:00:00Z`, `2026-01-01T02:00:00+02:00`},
		"zone of zero":     {`00:00:00Z`, `00:00:00+00:00`},
		"fraction":         {`00:00:00Z`, `00:00:00.0Z`},
		"number":           {`200`, `2e2`},
		"trailing space":   {"}\n", "} \n"},
		"carriage return":  {"}\n", "}\r\n"},
		"a second object":  {"}\n", "}{}\n"},
		"unknown event":    {`"event":"read"`, `"event":"hunter2"`},
		"not an object":    {`{"seq":1`, `["seq",1`},
		"bad UTF-8":        {`alice`, "al\xffice"},
		"a longer one":     {`alice`, strings.Repeat("a", maxRecord)},
		"no newline":       {"}\n", "}"},
		"nothing but this": {string(good), "null\n"},
	} {
		text := strings.Replace(string(good), pair[0], pair[1], 1)
		if text == string(good) {
			t.Fatalf("%s: changes nothing", name)
		}
		_, err := Verify(strings.NewReader(text), VerifyOptions{})
		names(t, name, err, 1)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error quotes the line: %v", name, err)
		}
	}
}

// Verify streams: a line without end costs no memory, and a reader's error is its own.
func TestVerifyBounds(t *testing.T) {
	allocs := testing.AllocsPerRun(1, func() {
		_, err := Verify(io.LimitReader(zeros{}, 1<<28), VerifyOptions{})
		if err == nil {
			t.Error("so many of zeros verifies")
		}
	})
	if allocs > 100 {
		t.Errorf("%v allocations", allocs)
	}
	boom := errors.New("boom")
	lines, _ := sample(t)
	in := io.MultiReader(strings.NewReader(strings.Join(lines[:5], "")), iotest.ErrReader(boom))
	sum, err := Verify(in, VerifyOptions{})
	if !errors.Is(err, boom) || sum.Records != 4 {
		t.Errorf("%+v, %v", sum, err)
	}
	if _, err := Verify(iotest.OneByteReader(strings.NewReader(strings.Join(lines, ""))), VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func FuzzVerify(f *testing.F) {
	lines, head := sample(f)
	text := strings.Join(lines, "")
	f.Add([]byte(text))
	f.Add([]byte(text[:len(text)/2]))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		sum, err := Verify(bytes.NewReader(in), VerifyOptions{Head: head})
		// What ends in this head is this log: there is no second text for it. (But for torn
		// bytes of another kind, of which the chain knows no more than their hash.)
		if err == nil && string(in) != text {
			t.Errorf("another text with the same head: %+v", sum)
		}
		for line := range bytes.Lines(in) {
			if rec, err := decode(bytes.TrimSuffix(line, []byte("\n"))); err == nil {
				if _, err := json.Marshal(rec); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
