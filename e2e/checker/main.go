// Leasehold-checker decides whether a history of operations on a storage server is linearizable.
//
// It reads JSON lines (see history.go) from the named file or from standard input and prints a report as JSON. The
// search is Porcupine's; here are the sequential specifications of slots (slot.go) and of immutable shares (share.go).
// Each key is a history of its own, because linearizability of the parts is linearizability of the whole.
//
// Exit codes: 0 linearizable, 1 not linearizable, 2 bad arguments or no history, 3 gave up after the time limit.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

const usage = "usage: leasehold-checker [-timeout 60s] [history.jsonl]"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main with its surroundings as arguments.
func run(arguments []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("leasehold-checker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintln(stderr, usage) }
	limit := flags.Duration("timeout", time.Minute, "how long to search")
	if err := flags.Parse(arguments); err != nil || flags.NArg() > 1 || *limit <= 0 {
		flags.Usage()
		return 2
	}
	input := stdin
	if name := flags.Arg(0); name != "" && name != "-" {
		file, err := os.Open(name)
		if err != nil {
			fmt.Fprintln(stderr, "error:", err)
			return 2
		}
		defer file.Close()
		input = file
	}
	keys, byKey, err := readHistory(input)
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 2
	}
	if len(keys) == 0 {
		// An empty history is linearizable, and surely not what somebody wanted to know.
		fmt.Fprintln(stderr, "error: the history is empty")
		return 2
	}
	result := judge(keys, byKey, *limit, runtime.NumCPU())
	encoder := json.NewEncoder(stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(result); err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 2
	}
	return map[string]int{linearizable: 0, notLinearizable: 1, gaveUp: 3}[result.Verdict]
}
