package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"
)

// cases are series as promtool's tests write them, one value a minute.
type cases struct {
	// Healthy are the series of a deployment that nobody need look at.
	Healthy []string
	// Cases says by name which of these series are others, or come in addition.
	Cases map[string][]string
}

// written is a series with its values.
type written struct {
	labels labels.Labels
	values []parser.SequenceValue
}

// told says which alerts fired at any time of a case; that of the healthy has no name.
type told struct {
	Case  string   `json:"case"`
	Fired []string `json:"fired"`
}

func tellCases(file string, ruleFiles []string) error {
	rules, err := load(ruleFiles)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all cases
	if err := yaml.Unmarshal(text, &all); err != nil {
		return err
	}
	names := append([]string{""}, slices.Sorted(maps.Keys(all.Cases))...)
	for _, name := range names {
		fired, err := fires(rules, append(slices.Clone(all.Healthy), all.Cases[name]...))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := print(told{name, fired}); err != nil {
			return err
		}
	}
	return nil
}

// fires gives the names of alerts that fire while the series go on; of two with the same labels the later one counts.
func fires(rules []rulefmt.Rule, descriptions []string) ([]string, error) {
	all, minutes := map[string]written{}, 0
	for _, description := range descriptions {
		of, values, err := parser.ParseSeriesDesc(description)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", description, err)
		}
		all[of.String()] = written{of, values}
		minutes = max(minutes, len(values))
	}
	evaluator, fired := newEvaluator(rules), map[string]bool{}
	begin := time.Unix(1_000_000_000, 0)
	for minute := range minutes {
		now := begin.Add(time.Duration(minute) * time.Minute)
		for _, one := range all {
			if minute < len(one.values) && !one.values[minute].Omitted {
				evaluator.memory.append(one.labels, now.UnixMilli(), one.values[minute].Value)
			}
		}
		evaluator.memory.endRound(now.UnixMilli())
		firing, err := evaluator.evaluate(now)
		if err != nil {
			return nil, err
		}
		for _, alert := range firing {
			fired[alert.Alert] = true
		}
	}
	return append([]string{}, slices.Sorted(maps.Keys(fired))...), nil
}
