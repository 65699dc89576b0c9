package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// parseProxy checks Config.Proxy; nil is for none. It never quotes its input
// back: people write passwords into it.
func parseProxy(r remote, cfg Config) (*url.URL, error) {
	switch {
	case cfg.Proxy == "" && cfg.Auth.ProxyCredentialFile != "":
		return nil, errors.New("proxyCredentialFile needs proxy; a proxy of the environment takes its credential from there")
	case cfg.Proxy == "":
		return nil, nil
	case r.scheme != "https" && r.scheme != "http":
		return nil, errors.New("proxy is for https and http; remove it, or use an https url")
	}
	u, err := url.Parse(cfg.Proxy)
	switch {
	case err != nil || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) || u.Hostname() == "":
		return nil, errors.New("proxy is not understood; give http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT")
	case u.User != nil:
		return nil, errors.New("proxy holds a credential; write USER:PASSWORD into a file and name that as proxyCredentialFile")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("proxy has more than a host and a port; leave the rest out")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// proxyFor is the proxy of a transport. The credential is net/http's to send:
// to the proxy, and never within a tunnel.
func (m *Mirror) proxyFor(cred credential) func(*http.Request) (*url.URL, error) {
	if m.proxy == nil {
		return http.ProxyFromEnvironment
	}
	u := *m.proxy
	if cred.proxyUser != "" {
		u.User = url.UserPassword(cred.proxyUser, cred.proxyPassword)
	}
	return http.ProxyURL(&u)
}

// proxyAnswered sorts what a proxy says to being asked for a tunnel.
func (m *Mirror) proxyAnswered(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusProxyAuthRequired:
		return m.proxyRefused(proxy)
	}
	return fmt.Errorf("%w: the proxy %s answered with status %d", ErrUnreachable, proxy.Host, resp.StatusCode)
}

// proxyRefused is for a proxy that wants another credential, or one at all.
func (m *Mirror) proxyRefused(proxy *url.URL) error {
	host := "of the environment"
	if proxy != nil {
		host = proxy.Host
	}
	switch {
	case m.proxy == nil:
		return fmt.Errorf("%w: the proxy %s asks for one; check HTTPS_PROXY, or set proxy and proxyCredentialFile", ErrAuth, host)
	case m.cfg.Auth.ProxyCredentialFile == "":
		return fmt.Errorf("%w: the proxy %s asks for one and none is configured; set proxyCredentialFile", ErrAuth, host)
	}
	return fmt.Errorf("%w: the proxy %s does not take it; check proxyCredentialFile %s", ErrAuth, host, m.cfg.Auth.ProxyCredentialFile)
}
