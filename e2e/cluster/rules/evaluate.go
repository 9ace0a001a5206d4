package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
)

// evaluator knows which alerts are pending or fire.
type evaluator struct {
	memory *memory
	engine *promql.Engine
	rules  []rulefmt.Rule
	// since says for each rule since when each of its alerts holds.
	since []map[string]time.Time
}

// alert is one that fires.
type alert struct {
	Alert  string            `json:"alert"`
	Labels map[string]string `json:"labels"`
}

func newEvaluator(rules []rulefmt.Rule) *evaluator {
	options := promql.EngineOpts{
		MaxSamples: 10_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute,
		EnableAtModifier: true, EnableNegativeOffset: true,
	}
	return &evaluator{newMemory(), promql.NewEngine(options), rules, make([]map[string]time.Time, len(rules))}
}

// evaluate gives the alerts that fire at a time, which must be later than that of the last call.
func (e *evaluator) evaluate(now time.Time) ([]alert, error) {
	firing := []alert{}
	for number, rule := range e.rules {
		found, err := e.query(rule.Expr, now)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rule.Alert, err)
		}
		since := map[string]time.Time{}
		for _, sample := range found {
			key := sample.Metric.String()
			began, held := e.since[number][key]
			if !held {
				began = now
			}
			since[key] = began
			if now.Sub(began) >= time.Duration(rule.For) {
				firing = append(firing, alert{rule.Alert, labelsOf(rule, sample.Metric)})
			}
		}
		e.since[number] = since
	}
	return firing, nil
}

func (e *evaluator) query(expression string, now time.Time) (promql.Vector, error) {
	query, err := e.engine.NewInstantQuery(context.Background(), e.memory, nil, expression, now)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	found, err := query.Exec(context.Background()).Vector()
	// What was found is used again for other queries.
	return append(promql.Vector{}, found...), err
}

func labelsOf(rule rulefmt.Rule, metric labels.Labels) map[string]string {
	all := metric.Map()
	delete(all, labels.MetricName)
	for name, text := range rule.Labels {
		all[name] = text
	}
	return all
}
