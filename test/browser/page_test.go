// Package browser looks at the status page of a real agent in a real Chromium:
//
//	go -C test/browser test .            # needs chromium
//	go -C test/browser test . -update    # also writes the pictures of docs/images
package browser

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var update = flag.Bool("update", false, "write the pictures of docs/images")

// tab is one page of a browser, and what it complained about.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

// newBrowser starts Chromium on loopback with a profile of its own.
func newBrowser(t *testing.T, w *world) context.Context {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("the tests of the status page need Debian's chromium: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.Flag("ignore-certificate-errors-spki-list", w.pin), // this one certificate, no other
		chromedp.Flag("proxy-server", "direct://"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox does not work for root
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return ctx
}

// newTab has cookies of its own.
func newTab(t *testing.T, browser context.Context) *tab {
	b := &tab{t: t}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			b.complaints = append(b.complaints, fmt.Sprintf("console %s", e.Type))
		case *runtime.EventExceptionThrown:
			b.complaints = append(b.complaints, "exception: "+e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			if e.Entry.Level != log.EntryLevelVerbose {
				b.complaints = append(b.complaints, fmt.Sprintf("%s %s: %s", e.Entry.Source, e.Entry.Level, e.Entry.Text))
			}
		case *audits.EventIssueAdded:
			if code := string(e.Issue.Code); code != "PerformanceIssue" {
				b.complaints = append(b.complaints, "issue: "+code)
			}
		}
	}))
	t.Cleanup(cancel)
	b.ctx = ctx
	b.do() // opens the tab, which lives as long as this context
	b.ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	call(b, network.Enable, network.EnableParams{})
	for _, enable := range []cdp.Command[cdp.Empty, cdp.Empty]{log.Enable, runtime.Enable, audits.Enable} {
		call(b, enable, cdp.Empty{})
	}
	b.size(1280, 900)
	return b
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	out, err := chromedp.Call(b.ctx, command, params)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *tab) size(width, height int64) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 500})
}

func (b *tab) scheme(name string) {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
}

func eval[T any](b *tab, js string) (out T) {
	b.t.Helper()
	out, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *tab) path() string { return eval[string](b, `location.pathname + location.search`) }
func (b *tab) text() string { return eval[string](b, `document.body.innerText`) }
func (b *tab) dom() string  { return eval[string](b, `document.documentElement.outerHTML`) }

// quiet fails for what the browser complained about, and forgets it.
func (b *tab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaints {
		b.t.Errorf("the browser complained: %s", c)
	}
	b.complaints = nil
}

// login as a person does it without a mouse: the field has the focus already.
func (b *tab) login(url, token string) {
	b.t.Helper()
	// A browser gives the focus some time after the page is there.
	b.do(chromedp.Navigate(url+"/"), chromedp.WaitReady("#token"),
		chromedp.Poll[chromedp.Void](`document.activeElement.id === "token"`, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(10*time.Second)))
	b.press(token)
	b.submit(func() { b.press("\r") })
}

func (b *tab) press(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

// submit waits for the page that an action leads to.
func (b *tab) submit(action func()) {
	b.t.Helper()
	if _, err := chromedp.RunResponse(b.ctx, chromedp.Func(func(context.Context, *chromedp.Target) error { action(); return nil })); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) noValue() {
	b.t.Helper()
	dom := b.dom()
	for _, v := range values {
		if strings.Contains(dom, v) {
			b.t.Error("a value is in the page")
		}
	}
}

// picture takes the whole page. With -update it becomes one of the documentation.
func (b *tab) picture(name string, width int64) {
	b.t.Helper()
	// The repository is a folder of this run.
	eval[any](b, `document.querySelectorAll('dl .path bdi').forEach(e => e.textContent = 'https://git.example.com/platform/secrets.git')`)
	height := eval[int64](b, `document.documentElement.scrollHeight`)
	b.size(width, height)
	shot := call(b, page.CaptureScreenshot, page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatPng}).Data
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		b.t.Fatal(err)
	}
	if size := picture.Bounds(); int64(size.Dx()) != width || int64(size.Dy()) != height {
		b.t.Errorf("%s: %v", name, size)
	}
	small := smaller(b.t, picture)
	if len(small) < 3_000 || len(small) > 150_000 {
		b.t.Errorf("%s: a picture of %d bytes", name, len(small))
	}
	if *update {
		if err := os.WriteFile(filepath.Join("../../docs/images", name), small, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}

// smaller keeps the 256 colours that are most in a picture, which is enough for text.
func smaller(t *testing.T, picture image.Image) []byte {
	t.Helper()
	size := picture.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(picture.At(x, y)).(color.RGBA) }
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int { return count[b] - count[a] })
	var palette color.Palette
	for _, c := range colours[:min(256, len(colours))] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for c := range count {
		nearest[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(size, palette)
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	var file bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&file, out); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// lowContrast lists texts that stand out less from their ground than WCAG's AA asks for.
const lowContrast = `(() => {
	const rgb = c => (c.match(/[\d.]+/g) || []).map(Number);
	const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
	const out = []; let looked = 0;
	for (const e of document.body.querySelectorAll('*')) {
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
		looked++;
		const a = lum(rgb(getComputedStyle(e).color)), b = lum(ground(e));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) out.push(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2));
	}
	return looked > 5 ? out : ['only ' + looked + ' texts'];
})()`

func TestStatusPage(t *testing.T) {
	w := newWorld(t)
	ops, alice, eve := w.token("ops"), w.token("alice"), w.token("eve")
	secure := w.serve("secure", true)
	w.breakSome()
	w.wait("the broken commit", func() bool { return secure.failing(ops) == 2 })
	for path, want := range map[string]int{"orders-db-r/keys/username": 200, "orders-db-r": 200, "orders-db-rw": 200} {
		if got := secure.get("/v1/workspaces/orders/secrets/"+path, alice).code; got != want {
			t.Fatalf("%s: %d", path, got)
		}
	}
	if got := secure.get("/v1/workspaces/payments/secrets/card-processor", alice).code; got != 403 {
		t.Fatalf("alice reads of payments: %d", got)
	}
	browser := newBrowser(t, w)

	t.Run("no login, no names", func(t *testing.T) {
		b := newTab(t, browser)
		b.do(chromedp.Navigate(secure.url + "/"))
		if b.path() != "/login" || strings.Contains(b.dom(), "orders") {
			t.Errorf("%s: %s", b.path(), b.text())
		}
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			if low := eval[[]string](b, lowContrast); len(low) > 0 {
				t.Errorf("%s: too little contrast: %v", scheme, low)
			}
		}
		b.quiet()
		b.login(secure.url, "swt1_0123456789abcdef_wrong")
		if text := b.text(); b.path() != "/login" || !strings.Contains(text, "not valid") || eval[string](b, `document.getElementById('token').value`) != "" {
			t.Errorf("%s: %s", b.path(), text)
		}
	})

	t.Run("an operator sees it all", func(t *testing.T) {
		b := newTab(t, browser)
		b.login(secure.url, ops)
		if b.path() != "/" {
			t.Fatalf("after the login at %s: %s", b.path(), b.text())
		}
		text := b.text()
		for _, want := range []string{"Status", "Not all is served as committed: 2 findings", "main", "orders-db-r", "Orders database, read only", "orders-api", "card-processor", "registry-pull", "stale", "failing",
			"dana <dana@example.com>", "erin <erin@example.com>", "40 days ago", "workspaces/orders/secrets/orders-db-rw.yaml", "To do:", "orders-dev", "orders-service", "billing-service", "some keys", "Recent reads", "alice", "denied", "Audit head"} {
			if !strings.Contains(text, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		b.noValue()
		for _, key := range []string{"username", "webhook=", "signing"} {
			if strings.Contains(text, key) {
				t.Errorf("the page shows the key %q", key)
			}
		}
		if n := eval[int](b, `document.scripts.length + document.querySelectorAll('style, [style], iframe, object').length`); n != 0 {
			t.Errorf("%d scripts, styles or frames in the page", n)
		}
		b.cookie(secureCookie)
		if script := eval[string](b, `document.cookie + Object.keys(localStorage) + Object.keys(sessionStorage)`); script != "" {
			t.Errorf("a script could read %q", script)
		}
		b.tables(t)
		b.keyboard(t)
		grounds := map[string]bool{}
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			grounds[eval[string](b, `getComputedStyle(document.body).backgroundColor`)] = true
			if low := eval[[]string](b, lowContrast); len(low) > 0 {
				t.Errorf("%s: too little contrast: %v", scheme, low)
			}
			b.size(1280, 900)
			b.picture("status-"+scheme+".png", 1280)
		}
		if len(grounds) != 2 {
			t.Errorf("light and dark have the ground %v", grounds)
		}
		b.scheme("light")
		b.quiet()
	})

	t.Run("on a phone", func(t *testing.T) {
		b := newTab(t, browser)
		b.size(360, 740)
		fits := func() {
			t.Helper()
			if width := eval[int](b, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)`); width > 360 {
				t.Errorf("%s is %d wide", b.path(), width)
			}
		}
		b.do(chromedp.Navigate(secure.url + "/login"))
		fits()
		b.picture("login-phone.png", 360)
		b.login(secure.url, alice)
		fits()
		b.tables(t)
		b.scheme("dark")
		b.size(360, 740)
		b.picture("status-phone.png", 360)
		b.noValue()
		b.quiet()
	})

	t.Run("others see what they may list", func(t *testing.T) {
		b := newTab(t, browser)
		b.login(secure.url, alice)
		dom := b.dom()
		for _, hidden := range []string{"payments", "card-processor", "orders-copy", "registry-pull", "billing-service"} {
			if strings.Contains(dom, hidden) {
				t.Errorf("alice sees %s", hidden)
			}
		}
		if text := b.text(); !strings.Contains(text, "orders-api") || !strings.Contains(text, "1 more that you may not list") {
			t.Errorf("alice sees\n%s", text)
		}
		b.noValue()
		b.quiet()
		none := newTab(t, browser)
		none.login(secure.url, eve)
		if dom := none.dom(); strings.Contains(dom, "orders-") || !strings.Contains(dom, "nothing here that you may list") {
			t.Errorf("eve sees %s", none.text())
		}
	})

	t.Run("a session ends", func(t *testing.T) {
		b := newTab(t, browser)
		bob := w.token("bob")
		b.login(secure.url, bob)
		old := b.cookie(secureCookie)
		b.submit(func() { b.do(chromedp.Click(".who button")) })
		if b.path() != "/login" || b.cookie(secureCookie) != "" {
			t.Errorf("after the logout at %s", b.path())
		}
		r, err := http.NewRequest("GET", secure.url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(&http.Cookie{Name: secureCookie, Value: old})
		if resp, err := secure.client.Transport.RoundTrip(r); err != nil || resp.StatusCode != 303 {
			t.Errorf("the old cookie: %v %v", resp, err)
		}
		// A token that is revoked ends its sessions at once.
		b.login(secure.url, bob)
		tokens := w.read("tokens.yaml")
		kept := slices.DeleteFunc(strings.SplitAfter(tokens, "    - "), func(entry string) bool { return strings.Contains(entry, "users:id:bob") })
		w.write("tokens.yaml", strings.TrimSuffix(strings.Join(kept, ""), "    - "))
		b.do(chromedp.Navigate(secure.url + "/"))
		if b.path() != "/login?ended" || b.cookie(secureCookie) != "" {
			t.Errorf("with a revoked token at %s: %s", b.path(), b.text())
		}
		b.quiet()
	})

	// Another server on the same machine is of the same site, but not of the same origin.
	t.Run("forms of another origin", func(t *testing.T) {
		other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(rw, `<form id="in" method="post" action="%s/login"><input name="token" value="%s"><button>in</button></form><form id="out" method="post" action="%[1]s/logout"><button>out</button></form>`, secure.url, eve)
		}))
		defer other.Close()
		b := newTab(t, browser)
		b.login(secure.url, alice)
		mine := b.cookie(secureCookie)
		for _, form := range []string{"#in", "#out"} {
			b.do(chromedp.Navigate(other.URL))
			b.submit(func() { b.do(chromedp.Click(form + " button")) })
			if text := b.text(); !strings.Contains(text, "not sent from here") {
				t.Errorf("%s: %s", form, text)
			}
		}
		if now := b.cookie(secureCookie); now != mine {
			t.Error("another origin changed the session")
		}
	})

	t.Run("plain HTTP on loopback", func(t *testing.T) {
		plain := w.serve("plain", false)
		b := newTab(t, browser)
		b.login(plain.url, alice)
		if b.path() != "/" || !strings.Contains(b.text(), "orders-api") {
			t.Errorf("%s: %s", b.path(), b.text())
		}
		b.cookie("sealward")
		b.noValue()
		b.quiet()
	})

	if out := w.run(w.dir, nil, w.sealward, "audit", "verify", "secure-state/audit.jsonl"); !strings.Contains(out, "intact") {
		t.Errorf("audit verify: %s", out)
	}
	if log := w.read("secure-state/audit.jsonl"); !strings.Contains(log, `"event":"list","decision":"allow","reason":"monitor","status":200,"subject":"users:id:ops"`) {
		t.Error("what the operator looked at is not in the audit")
	}
}

const secureCookie = "__Host-sealward"

// cookie gives the value of the session's cookie, "" for none, and checks the rest of it.
func (b *tab) cookie(name string) string {
	b.t.Helper()
	all := call(b, network.GetCookies, network.GetCookiesParams{}).Cookies
	if len(all) == 0 {
		return ""
	}
	c := all[0]
	if len(all) != 1 || c.Name != name || !c.HTTPOnly || c.SameSite != network.CookieSameSiteStrict || c.Path != "/" || strings.HasPrefix(c.Domain, ".") || c.Secure != (name == secureCookie) {
		b.t.Errorf("cookies %+v", c)
	}
	if left := time.Until(time.Unix(int64(c.Expires), 0)); left < 7*time.Hour || left > 8*time.Hour {
		b.t.Errorf("the cookie lasts %v", left)
	}
	return c.Value
}

// tables checks what a screen reader is told: tables with names, rows and headers, and
// the parts of the page.
func (b *tab) tables(t *testing.T) {
	t.Helper()
	nodes := call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	roles := map[string]int{}
	for _, n := range nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role := strings.Trim(string(n.Role.Value), `"`)
		roles[role]++
		if (role == "table" || role == "navigation") && (n.Name == nil || len(n.Name.Value) < 3) {
			t.Errorf("a %s has no name", role)
		}
	}
	tables := eval[int](b, `document.querySelectorAll('table').length`)
	rows := eval[int](b, `document.querySelectorAll('tr').length`)
	if tables < 2 || roles["table"] != tables || roles["row"] != rows || roles["columnheader"] < 5*tables || roles["rowheader"] != rows-tables {
		t.Errorf("%d tables of %d rows: %v", tables, rows, roles)
	}
	for _, landmark := range []string{"banner", "navigation", "main", "contentinfo"} {
		if roles[landmark] != 1 {
			t.Errorf("%d of %s", roles[landmark], landmark)
		}
	}
	if n := eval[int](b, `document.querySelectorAll('h1').length`); n != 1 {
		t.Errorf("%d main headings", n)
	}
}

// keyboard goes through the page with Tab: the first stop skips to the content, and every
// stop can be seen.
func (b *tab) keyboard(t *testing.T) {
	t.Helper()
	eval[any](b, `document.activeElement.blur()`)
	seen := map[string]bool{}
	for i := range 6 {
		b.press("\t")
		where := eval[string](b, `document.activeElement.innerText`)
		outline := eval[string](b, `getComputedStyle(document.activeElement).outlineStyle`)
		left := eval[float64](b, `document.activeElement.getBoundingClientRect().left`)
		if outline == "none" || left < 0 {
			t.Errorf("the focus on %q cannot be seen: outline %s at %v", where, outline, left)
		}
		if i == 0 && where != "Skip to the content" {
			t.Errorf("the first stop is %q", where)
		}
		seen[where] = true
	}
	for _, want := range []string{"Workspaces", "Recent reads", "Log out"} {
		if !seen[want] {
			t.Errorf("Tab does not reach %q: %v", want, seen)
		}
	}
	b.do(chromedp.Focus(".skip"))
	b.press("\r")
	if id := eval[string](b, `document.activeElement.id`); id != "main" {
		t.Errorf("the skip link leads to %q", id)
	}
}
