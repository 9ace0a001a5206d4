package main

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verdicts, as they stand in the report.
const (
	linearizable    = "linearizable"
	notLinearizable = "not linearizable"
	gaveUp          = "gave up"
)

// minimizeTime bounds the search for a short history after one was found that is not linearizable.
const minimizeTime = 20 * time.Second

// report is what the checker prints.
type report struct {
	Verdict    string  `json:"verdict"`
	Operations int     `json:"operations"`
	Unknown    int     `json:"unknown"`
	Keys       int     `json:"keys"`
	Seconds    float64 `json:"seconds"`
	// Key is the one that is not linearizable, or that took too long.
	Key string `json:"key,omitempty"`
	// Partial is the shortest part of the key's history that was found to be not linearizable, in order of calls.
	Partial []line `json:"partial,omitempty"`
	// State is what the key holds after the longest run of operations that fit together, and Fitting how many they are.
	State   string `json:"state,omitempty"`
	Fitting int    `json:"fitting,omitempty"`
}

// judge checks all keys, several at a time, until one is not linearizable or the time is over.
func judge(keys []string, byKey map[string][]*operation, limit time.Duration, workers int) report {
	begin := time.Now()
	result := report{Verdict: linearizable, Keys: len(keys)}
	for _, operations := range byKey {
		result.Operations += len(operations)
		for _, done := range operations {
			if done.unknown() {
				result.Unknown++
			}
		}
	}
	deadline := begin.Add(limit)
	key, found := firstBad(keys, byKey, deadline, workers)
	switch found {
	case porcupine.Unknown:
		result.Verdict, result.Key = gaveUp, key
	case porcupine.Illegal:
		result.Verdict, result.Key = notLinearizable, key
		result.explain(byKey[key])
	}
	result.Seconds = math.Round(time.Since(begin).Seconds()*1000) / 1000
	return result
}

// firstBad finds a key that is not linearizable; without one, a key that took too long.
func firstBad(
	keys []string, byKey map[string][]*operation, deadline time.Time, workers int,
) (string, porcupine.CheckResult) {
	var guard sync.Mutex
	var group sync.WaitGroup
	worst, at, next := porcupine.Ok, "", 0
	work := func() {
		defer group.Done()
		for {
			guard.Lock()
			if worst == porcupine.Illegal || next == len(keys) {
				guard.Unlock()
				return
			}
			key := keys[next]
			next++
			guard.Unlock()
			found := check(key, byKey[key], deadline)
			guard.Lock()
			if found == porcupine.Illegal || found == porcupine.Unknown && worst == porcupine.Ok {
				worst, at = found, key
			}
			guard.Unlock()
		}
	}
	for range workers {
		group.Add(1)
		go work()
	}
	group.Wait()
	return at, worst
}

// explain looks for the shortest history that shows the fault, and for how far one gets in it.
func (r *report) explain(operations []*operation) {
	deadline := time.Now().Add(minimizeTime)
	short := minimize(r.Key, operations, deadline)
	for _, done := range short {
		r.Partial = append(r.Partial, done.line)
	}
	_, info := porcupine.CheckOperationsVerbose(modelOf(r.Key), prepared(short), max(time.Until(deadline), time.Second))
	// A model of its own: a search that ran out of time may still be at work with the other.
	model := modelOf(r.Key)
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, run := range partition {
			if len(run) < r.Fitting {
				continue
			}
			at := model.Init()
			for _, done := range run {
				_, at = model.Step(at, done.Input, nil)
			}
			r.State, r.Fitting = at.(state).text(), len(run)
		}
	}
}

// minimize makes a history that is not linearizable shorter, and keeps it so.
//
// First the shortest beginning, by time: what has not returned by then becomes unknown. Then everything that changes
// nothing and is not needed goes. Neither step can turn a good history into a bad one.
func minimize(key string, operations []*operation, deadline time.Time) []*operation {
	bad := func(candidate []*operation) bool { return check(key, candidate, deadline) == porcupine.Illegal }
	var returns []int64
	for _, done := range operations {
		if !done.unknown() {
			returns = append(returns, *done.Return)
		}
	}
	slices.Sort(returns)
	low, high := 0, len(returns)-1
	for low < high {
		if middle := (low + high) / 2; bad(until(operations, returns[middle])) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	short := operations
	if high >= 0 {
		if candidate := until(operations, returns[high]); bad(candidate) {
			short = candidate
		}
	}
	for at := len(short) - 1; at >= 0; at-- {
		candidate := slices.Delete(slices.Clone(short), at, at+1)
		if short[at].changesNothing() && bad(candidate) {
			short = candidate
		}
	}
	slices.SortStableFunc(short, func(a, b *operation) int { return int(a.Call - b.Call) })
	return short
}

// until gives the history as it was known at a time.
func until(operations []*operation, now int64) []*operation {
	var known []*operation
	for _, done := range operations {
		switch {
		case done.Call > now:
		case done.unknown() || *done.Return <= now:
			known = append(known, done)
		case !done.change.onlyReads():
			open := *done
			open.Return, open.Output, open.answer, open.result = nil, nil, "", nil
			known = append(known, &open)
		}
	}
	return known
}

// changesNothing says whether the answer proves that the operation had no effect.
func (o *operation) changesNothing() bool {
	return o.change.onlyReads() || !o.unknown() && o.result.refuses()
}
