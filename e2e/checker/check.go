package main

import (
	"hash/fnv"
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// never is the time at which operations of unknown outcome return: after everything else.
const never = math.MaxInt64

// end is the operation after all others of a key. Behind it, operations of unknown outcome that had no effect are put.
type end struct{}

// ended is the state behind the end.
type ended struct{}

func (ended) text() string { return "ended" }

// step is what an operation does to a state; remembered, because a search comes by the same place many times.
type step struct {
	legal bool
	after state
}

type place struct {
	before string
	done   *operation
}

// modelOf makes the sequential specification of one key.
//
// An operation of unknown outcome either has an effect where it is put, or is put behind the end. Without that rule the
// search would try every subset of those without effect at every place.
func modelOf(key string) porcupine.Model {
	steps := map[place]step{}
	return porcupine.Model{
		Init: func() any { return initial(key) },
		Step: func(before, input, _ any) (bool, any) {
			done, ok := input.(*operation)
			if !ok {
				return true, ended{}
			}
			at := place{before.(state).text(), done}
			known, ok := steps[at]
			if !ok {
				known = stepOf(before.(state), done)
				steps[at] = known
			}
			return known.legal, known.after
		},
		Equal: func(a, b any) bool { return a.(state).text() == b.(state).text() },
		Hash: func(at any) uint64 {
			hash := fnv.New64a()
			_, _ = hash.Write([]byte(at.(state).text()))
			return hash.Sum64()
		},
	}
}

func initial(key string) state {
	if strings.HasPrefix(key, "slot ") {
		return newSlot(0, nil)
	}
	return newShare(absent, 0, nil)
}

func stepOf(before state, done *operation) step {
	if _, over := before.(ended); over {
		return step{done.unknown(), before}
	}
	after, answer := done.change.apply(before)
	if done.unknown() {
		return step{after.text() != before.text(), after}
	}
	return step{answer == done.answer, after}
}

// search asks Porcupine whether the operations of one key are linearizable.
func search(key string, operations []*operation, deadline time.Time) porcupine.CheckResult {
	left := time.Until(deadline)
	if left <= 0 {
		return porcupine.Unknown
	}
	return porcupine.CheckOperationsTimeout(modelOf(key), prepared(operations), left)
}

// prepared turns operations into Porcupine's and adds the end.
func prepared(operations []*operation) []porcupine.Operation {
	var history []porcupine.Operation
	last := int64(0)
	for _, done := range operations {
		returned := int64(never)
		last = max(last, done.Call)
		if !done.unknown() {
			returned = *done.Return
			last = max(last, returned)
		} else if done.change.onlyReads() {
			continue // nobody saw what it read
		}
		history = append(history, porcupine.Operation{
			ClientId: done.Client, Input: done, Call: done.Call, Return: returned,
		})
	}
	return append(history, porcupine.Operation{Input: end{}, Call: last + 1, Return: last + 2})
}

// check decides about one key.
//
// Most operations of unknown outcome that wrote something nobody ever saw did nothing. The first search leaves them
// away, which can only make it say no too often; a no is asked again with all of them.
func check(key string, operations []*operation, deadline time.Time) porcupine.CheckResult {
	likely := withoutUnseen(operations)
	if result := search(key, likely, deadline); result != porcupine.Illegal || len(likely) == len(operations) {
		return result
	}
	return search(key, operations, deadline)
}

// withoutUnseen leaves operations of unknown outcome away whose blocks are in no answer.
func withoutUnseen(operations []*operation) []*operation {
	seen := map[int64]bool{}
	for _, done := range operations {
		if done.unknown() {
			continue
		}
		for _, id := range done.result.sees() {
			seen[id] = true
		}
	}
	var kept []*operation
	for _, done := range operations {
		if !done.unknown() || wasSeen(done.change.writes(), seen) {
			kept = append(kept, done)
		}
	}
	return kept
}

// wasSeen says whether one of the ids was; what writes none (removals, allocations) counts as seen.
func wasSeen(ids []int64, seen map[int64]bool) bool {
	for _, id := range ids {
		if seen[id] {
			return true
		}
	}
	return len(ids) == 0
}
