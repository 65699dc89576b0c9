package main

import (
	"os"
	"strconv"
	"strings"
)

// ticks of processor time since the system and this process started; the zero
// value where the system does not tell.
type ticks struct {
	all, busy int // of every core
	own       int // of this process and the children it waited for
}

func processorTicks() ticks {
	var t ticks
	system, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(system), "\n")
	// cpu user nice system idle iowait irq softirq steal
	for i, f := range strings.Fields(line) {
		if n, err := strconv.Atoi(f); err == nil && i <= 8 {
			t.all += n
			if i != 4 && i != 5 {
				t.busy += n
			}
		}
	}
	self, _ := os.ReadFile("/proc/self/stat")
	// After the name, which may hold anything, field 3 comes first; 14 to 17 are
	// utime, stime, cutime and cstime.
	if i := strings.LastIndexByte(string(self), ')'); i >= 0 {
		if f := strings.Fields(string(self[i+1:])); len(f) > 14 {
			for _, s := range f[11:15] {
				n, _ := strconv.Atoi(s)
				t.own += n
			}
		}
	}
	return t
}

// others is the share of the cores that other programs, the kernel's threads and
// other virtual machines had since before, in percent.
func (t ticks) others(before ticks) (percent int, known bool) {
	all := t.all - before.all
	if all <= 0 {
		return 0, false
	}
	return max(0, 100*((t.busy-before.busy)-(t.own-before.own))/all), true
}
