package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// target is a page of metrics with the labels that its samples get, as a PodMonitor gives them.
type target struct {
	URL    string            `json:"url"`
	Labels map[string]string `json:"labels"`
}

// seen is a line of the output.
type seen struct {
	// Second is that of the fast clock since the beginning.
	Second int64   `json:"second"`
	Firing []alert `json:"firing"`
}

var client = http.Client{Timeout: 800 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}

// watch scrapes the targets that a file lists at that moment, once a second, and says each time which alerts fire. Samples and
// evaluations are on a clock that runs `speed` times as fast.
func watch(targetsFile string, speed int, ruleFiles []string) error {
	rules, err := load(ruleFiles)
	if err != nil {
		return err
	}
	evaluator, begin := newEvaluator(rules), time.Now()
	for range time.Tick(time.Second) {
		passed := time.Since(begin) * time.Duration(speed)
		now := begin.Add(passed)
		targets, err := readTargets(targetsFile)
		if err != nil {
			return err
		}
		evaluator.memory.scrape(targets, now.UnixMilli())
		firing, err := evaluator.evaluate(now)
		if err != nil {
			return err
		}
		if err := print(seen{int64(passed.Seconds()), firing}); err != nil {
			return err
		}
	}
	return nil
}

// readTargets reads a list that others replace as a whole.
func readTargets(file string) (targets []target, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return targets, json.Unmarshal(text, &targets)
}

func (m *memory) scrape(targets []target, millis int64) {
	pages, all := make([]*http.Response, len(targets)), sync.WaitGroup{}
	bodies := make([][]byte, len(targets))
	for number, target := range targets {
		all.Add(1)
		go func() {
			defer all.Done()
			page, err := client.Get(target.URL)
			if err != nil {
				return
			}
			defer page.Body.Close()
			body, err := io.ReadAll(io.LimitReader(page.Body, 16<<20))
			if err == nil && page.StatusCode == http.StatusOK {
				pages[number], bodies[number] = page, body
			}
		}()
	}
	all.Wait()
	for number, target := range targets {
		up := 0.0
		if pages[number] != nil && m.take(target, bodies[number], pages[number].Header.Get("Content-Type"), millis) == nil {
			up = 1
		}
		m.append(target.label(labels.FromStrings(labels.MetricName, "up")), millis, up)
	}
	m.endRound(millis)
}

// take makes samples of a page; of one that is broken only those before the break.
func (m *memory) take(from target, body []byte, kind string, millis int64) error {
	parser, err := textparse.New(body, kind, "", false, false, labels.NewSymbolTable())
	if parser == nil {
		return err
	}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry == textparse.EntrySeries {
			var of labels.Labels
			parser.Labels(&of)
			_, _, number := parser.Series()
			m.append(from.label(of), millis, number)
		}
	}
}

func (t target) label(of labels.Labels) labels.Labels {
	builder := labels.NewBuilder(of)
	for name, text := range t.Labels {
		builder.Set(name, text)
	}
	return builder.Labels()
}
