package main

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// memory is as much of a storage as the query engine asks for.
type memory struct {
	series map[string]*series
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
	// isFresh says that it has a sample of the present round.
	isFresh bool
	isStale bool
}

func newMemory() *memory {
	return &memory{series: map[string]*series{}}
}

func (m *memory) append(of labels.Labels, millis int64, number float64) {
	key := of.String()
	known, ok := m.series[key]
	if !ok {
		known = &series{labels: of}
		m.series[key] = known
	}
	known.samples = append(known.samples, sample{millis, number})
	known.isFresh, known.isStale = true, value.IsStaleNaN(number)
}

// endRound marks series as ended that had no sample since the last round, as Prometheus does.
func (m *memory) endRound(millis int64) {
	for _, known := range m.series {
		if !known.isFresh && !known.isStale {
			known.samples = append(known.samples, sample{millis, math.Float64frombits(value.StaleNaN)})
			known.isStale = true
		}
		known.isFresh = false
	}
}

func (m *memory) Querier(_, _ int64) (storage.Querier, error) {
	find := func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		found := &foundSeries{at: -1}
		for _, known := range m.series {
			if matches(known.labels, matchers) {
				found.series = append(found.series, storage.NewListSeries(known.labels, known.samples))
			}
		}
		return found
	}
	return &storage.MockQuerier{SelectMockFunction: find}, nil
}

func matches(of labels.Labels, matchers []*labels.Matcher) bool {
	for _, matcher := range matchers {
		if !matcher.Matches(of.Get(matcher.Name)) {
			return false
		}
	}
	return true
}

// foundSeries is one answer of the storage.
type foundSeries struct {
	series []storage.Series
	at     int
}

func (f *foundSeries) Next() bool                        { f.at++; return f.at < len(f.series) }
func (f *foundSeries) At() storage.Series                { return f.series[f.at] }
func (f *foundSeries) Err() error                        { return nil }
func (f *foundSeries) Warnings() annotations.Annotations { return nil }

type sample struct {
	millis int64
	number float64
}

func (s sample) T() int64                      { return s.millis }
func (s sample) F() float64                    { return s.number }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
