// Checks files of alert rules as Prometheus does when it loads them: syntax of expressions, templates, durations, names.
package main

import (
	"fmt"
	"os"

	"github.com/prometheus/prometheus/model/rulefmt"
)

func main() {
	failed := false
	for _, file := range os.Args[1:] {
		groups, problems := rulefmt.ParseFile(file, false)
		for _, problem := range problems {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, problem)
			failed = true
		}
		if len(problems) > 0 {
			continue
		}
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				fmt.Println(rule.Alert)
			}
		}
	}
	if failed || len(os.Args) == 1 {
		os.Exit(1)
	}
}
