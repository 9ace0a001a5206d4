// Does with files of alert rules what Prometheus does: checks them as it loads them, evaluates them on series that are written down,
// or on what it scrapes, on a clock that runs faster.
//
//	rules check RULES…            syntax of expressions, templates, durations, names; prints the names of alerts
//	rules cases CASES RULES…      prints a JSON line for each case: which alerts fired in it
//	rules watch TARGETS SPEED RULES…  scrapes once a second until it is ended; prints a JSON line each time: which alerts fire
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/prometheus/prometheus/model/rulefmt"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) > 1 && arguments[0] == "check":
		return check(arguments[1:])
	case len(arguments) > 2 && arguments[0] == "cases":
		return tellCases(arguments[1], arguments[2:])
	case len(arguments) > 3 && arguments[0] == "watch":
		speed, err := strconv.Atoi(arguments[2])
		if err != nil {
			return err
		}
		return watch(arguments[1], speed, arguments[3:])
	}
	return errors.New("say check, cases or watch, and with which files")
}

func check(files []string) error {
	rules, err := load(files)
	for _, rule := range rules {
		fmt.Println(rule.Alert)
	}
	return err
}

// load reads the rules of all files.
func load(files []string) ([]rulefmt.Rule, error) {
	var rules []rulefmt.Rule
	for _, file := range files {
		groups, problems := rulefmt.ParseFile(file, false)
		if len(problems) > 0 {
			return nil, fmt.Errorf("%s: %w", file, errors.Join(problems...))
		}
		for _, group := range groups.Groups {
			rules = append(rules, group.Rules...)
		}
	}
	return rules, nil
}

func print(value any) error {
	return json.NewEncoder(os.Stdout).Encode(value)
}
