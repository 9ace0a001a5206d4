package main

import (
	"fmt"
	"slices"
)

// missing marks a block of an upload that has not come.
const missing = -2

// An immutable share as a register that is written once, in pieces: absent, being uploaded under one secret, finished.
type shareState struct {
	phase   phase
	upload  int64 // which secret; only while uploading
	blocks  []int64
	written string
}

type phase string

const (
	absent    phase = "absent"
	uploading phase = "uploading"
	finished  phase = "finished"
)

func newShare(phase phase, upload int64, blocks []int64) *shareState {
	made := &shareState{phase: phase, upload: upload, blocks: blocks, written: string(phase)}
	switch phase {
	case uploading:
		made.written = fmt.Sprintf("upload %d of %v", upload, blocks)
	case finished:
		made.written = fmt.Sprintf("finished %v", blocks)
	}
	return made
}

func (s *shareState) text() string { return s.written }

// required gives the ranges that are missing, half open, ascending, not touching.
func (s *shareState) required() [][2]int64 {
	ranges := [][2]int64{}
	for at, id := range s.blocks {
		if id != missing {
			continue
		}
		if last := len(ranges) - 1; last >= 0 && ranges[last][1] == int64(at) {
			ranges[last][1]++
		} else {
			ranges = append(ranges, [2]int64{int64(at), int64(at) + 1})
		}
	}
	return ranges
}

// shareKinds are the operations on immutable shares.
var shareKinds = map[string]decoder{
	"allocate": decoderOf[allocate, allocateAnswer](),
	"write":    decoderOf[write, writeAnswer](),
	"abort":    decoderOf[abort, statusAnswer](),
	"read":     decoderOf[shareRead, readAnswer](),
	"list":     decoderOf[shareList, shareListAnswer](),
}

// allocate is the part of an allocation that concerns one share.
type allocate struct {
	Upload int64 `json:"upload"`
	Size   int64 `json:"size"`
}

func (a allocate) apply(before state) (state, string) {
	share := before.(*shareState)
	switch share.phase {
	case finished:
		return share, allocateAnswer{Status: 200, Answer: "already"}.text()
	case uploading:
		return share, allocateAnswer{Status: 200, Answer: "neither"}.text()
	default:
		blocks := slices.Repeat([]int64{missing}, int(a.Size))
		return newShare(uploading, a.Upload, blocks), allocateAnswer{Status: 200, Answer: "allocated"}.text()
	}
}

func (a allocate) writes() []int64 { return nil }
func (a allocate) onlyReads() bool { return false }

// allocateAnswer says in which of the two sets of the answer the share was: "already", "allocated" or "neither".
type allocateAnswer struct {
	Status int    `json:"status"`
	Answer string `json:"answer,omitempty"`
}

func (a allocateAnswer) text() string  { return fmt.Sprint(a.Status, " ", a.Answer) }
func (a allocateAnswer) sees() []int64 { return nil }
func (a allocateAnswer) refuses() bool { return a.Answer != "allocated" }

// write is a piece of an upload.
type write struct {
	Upload int64   `json:"upload"`
	Offset int64   `json:"offset"`
	Blocks []int64 `json:"blocks"`
}

func (w write) apply(before state) (state, string) {
	share := before.(*shareState)
	if share.phase != uploading {
		return share, writeAnswer{Status: 404}.text()
	}
	if share.upload != w.Upload {
		return share, writeAnswer{Status: 401}.text()
	}
	if w.Offset+int64(len(w.Blocks)) > int64(len(share.blocks)) {
		return share, writeAnswer{Status: 416}.text()
	}
	blocks := slices.Clone(share.blocks)
	for at, id := range w.Blocks {
		there := &blocks[w.Offset+int64(at)]
		if *there != missing && *there != id {
			return share, writeAnswer{Status: 409}.text()
		}
		*there = id
	}
	if !slices.Contains(blocks, missing) {
		return newShare(finished, 0, blocks), writeAnswer{Status: 201}.text()
	}
	after := newShare(uploading, share.upload, blocks)
	return after, writeAnswer{Status: 200, Required: after.required()}.text()
}

// A piece is seen in what is required, too, not only by its blocks.
func (w write) writes() []int64 { return nil }
func (w write) onlyReads() bool { return false }

// writeAnswer is the answer to a write: 201 for the one that finishes the share, 200 with what is missing, or a refusal.
type writeAnswer struct {
	Status   int        `json:"status"`
	Required [][2]int64 `json:"required,omitempty"`
}

func (a writeAnswer) text() string  { return fmt.Sprint(a.Status, " ", a.Required) }
func (a writeAnswer) sees() []int64 { return nil }
func (a writeAnswer) refuses() bool { return a.Status >= 400 }

// abort ends an upload without a share.
type abort struct {
	Upload int64 `json:"upload"`
}

func (a abort) apply(before state) (state, string) {
	share := before.(*shareState)
	switch {
	case share.phase == finished:
		return share, statusAnswer{Status: 405}.text()
	case share.phase == absent:
		return share, statusAnswer{Status: 404}.text()
	case share.upload != a.Upload:
		return share, statusAnswer{Status: 401}.text()
	default:
		return newShare(absent, 0, nil), statusAnswer{Status: 200}.text()
	}
}

func (a abort) writes() []int64 { return nil }
func (a abort) onlyReads() bool { return false }

// statusAnswer is an answer of which only the status counts.
type statusAnswer struct {
	Status int `json:"status"`
}

func (a statusAnswer) text() string  { return fmt.Sprint(a.Status) }
func (a statusAnswer) sees() []int64 { return nil }
func (a statusAnswer) refuses() bool { return a.Status != 200 }

// shareRead is a GET of a part of the share; there is nothing to read before it is finished.
type shareRead struct{ span }

func (r shareRead) apply(before state) (state, string) {
	share := before.(*shareState)
	if share.phase != finished {
		return share, readAnswer{Status: 404}.text()
	}
	return share, readAnswer{Status: 200, Blocks: r.of(share.blocks)}.text()
}

func (r shareRead) writes() []int64 { return nil }
func (r shareRead) onlyReads() bool { return true }

// shareList is the part of a listing that concerns one share.
type shareList struct{}

func (shareList) apply(before state) (state, string) {
	share := before.(*shareState)
	return share, shareListAnswer{Status: 200, Present: share.phase == finished}.text()
}

func (shareList) writes() []int64 { return nil }
func (shareList) onlyReads() bool { return true }

// shareListAnswer says whether the share was in the list.
type shareListAnswer struct {
	Status  int  `json:"status"`
	Present bool `json:"present"`
}

func (a shareListAnswer) text() string  { return fmt.Sprint(a.Status, " ", a.Present) }
func (a shareListAnswer) sees() []int64 { return nil }
func (a shareListAnswer) refuses() bool { return true }
