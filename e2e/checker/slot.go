package main

import (
	"fmt"
	"slices"
	"strings"
)

// A slot in small: share number -> blocks, each known by the id of the write that made it. 0 is a block of zeros, -1 a
// block that no write made whole. Offsets, counts and lengths are in blocks.
type slotState struct {
	enabler int64
	shares  []slotShare // ascending by number; none means that there is no slot, whatever the enabler
	written string
}

type slotShare struct {
	number int64
	blocks []int64
}

func newSlot(enabler int64, shares []slotShare) *slotState {
	made := &slotState{enabler: enabler, shares: shares}
	if len(shares) > 0 {
		made.written = fmt.Sprintf("enabler %d, %v", enabler, shares)
	}
	return made
}

func (s *slotState) text() string { return s.written }

// blocks gives the content of a share; one that does not exist reads as empty.
func (s *slotState) blocks(number int64) ([]int64, bool) {
	at, found := s.find(number)
	if !found {
		return nil, false
	}
	return s.shares[at].blocks, true
}

func (s *slotState) find(number int64) (int, bool) {
	return slices.BinarySearchFunc(s.shares, number, func(share slotShare, number int64) int {
		return int(share.number - number)
	})
}

// slotKinds are the operations on slots.
var slotKinds = map[string]decoder{
	"read_test_write": decoderOf[readTestWrite, readTestWriteAnswer](),
	"read":            decoderOf[slotRead, readAnswer](),
	"list":            decoderOf[slotList, listAnswer](),
}

// span is a range of blocks: what to read, or what to test.
type span struct {
	Offset int64 `json:"offset"`
	Count  int64 `json:"count"`
}

// of cuts the range out of blocks; what lies behind the end is left away.
func (s span) of(blocks []int64) []int64 {
	length := int64(len(blocks))
	begin, end := min(s.Offset, length), min(s.Offset+s.Count, length)
	return blocks[begin:end]
}

// readTestWrite is the one operation that changes a slot.
type readTestWrite struct {
	Enabler int64       `json:"enabler"`
	Shares  []testWrite `json:"shares"`
	Reads   []span      `json:"reads"`
}

type testWrite struct {
	Share  int64      `json:"share"`
	Tests  []test     `json:"tests"`
	Writes []newBlock `json:"writes"`
	// Length cuts the share at the end; 0 removes it, nothing leaves its length alone.
	Length *int64 `json:"length,omitempty"`
}

type test struct {
	span
	Specimen []int64 `json:"specimen"`
}

type newBlock struct {
	Offset int64   `json:"offset"`
	Blocks []int64 `json:"blocks"`
}

func (r readTestWrite) apply(before state) (state, string) {
	slot := before.(*slotState)
	if len(slot.shares) > 0 && slot.enabler != r.Enabler {
		return slot, readTestWriteAnswer{Status: 401}.text()
	}
	answer := readTestWriteAnswer{Status: 200, Success: r.holds(slot), Data: map[int64][][]int64{}}
	for _, share := range slot.shares {
		reads := [][]int64{}
		for _, span := range r.Reads {
			reads = append(reads, span.of(share.blocks))
		}
		answer.Data[share.number] = reads
	}
	if !answer.Success {
		return slot, answer.text()
	}
	return r.write(slot), answer.text()
}

func (r readTestWrite) holds(slot *slotState) bool {
	for _, vectors := range r.Shares {
		blocks, _ := slot.blocks(vectors.Share)
		for _, test := range vectors.Tests {
			if !slices.Equal(test.of(blocks), test.Specimen) {
				return false
			}
		}
	}
	return true
}

func (r readTestWrite) write(slot *slotState) *slotState {
	after := &slotState{shares: slices.Clone(slot.shares)}
	for _, vectors := range r.Shares {
		at, found := after.find(vectors.Share)
		if vectors.Length != nil && *vectors.Length == 0 {
			if found {
				after.shares = slices.Delete(after.shares, at, at+1)
			}
			continue
		}
		if !found {
			after.shares = slices.Insert(after.shares, at, slotShare{number: vectors.Share})
		}
		after.shares[at].blocks = vectors.changed(after.shares[at].blocks)
	}
	return newSlot(r.Enabler, after.shares)
}

// changed gives the content of a share after the writes: holes are zeros, a greater length than the share's does nothing.
func (t testWrite) changed(before []int64) []int64 {
	blocks := slices.Clone(before)
	for _, write := range t.Writes {
		end := int(write.Offset) + len(write.Blocks)
		for len(blocks) < end {
			blocks = append(blocks, 0)
		}
		copy(blocks[write.Offset:], write.Blocks)
	}
	if t.Length != nil && *t.Length < int64(len(blocks)) {
		blocks = blocks[:*t.Length]
	}
	return blocks
}

func (r readTestWrite) writes() []int64 {
	var ids []int64
	for _, vectors := range r.Shares {
		for _, write := range vectors.Writes {
			ids = append(ids, write.Blocks...)
		}
	}
	return ids
}

func (r readTestWrite) onlyReads() bool { return len(r.Shares) == 0 }

// readTestWriteAnswer is the answer to a readTestWrite: 200 with success and what was read before the writes, or 401.
type readTestWriteAnswer struct {
	Status  int                 `json:"status"`
	Success bool                `json:"success,omitempty"`
	Data    map[int64][][]int64 `json:"data,omitempty"`
}

func (a readTestWriteAnswer) text() string {
	if a.Status != 200 {
		return fmt.Sprint(a.Status)
	}
	// Printing sorts the keys of a map.
	return fmt.Sprint(a.Success, " ", a.Data)
}

func (a readTestWriteAnswer) sees() []int64 {
	var ids []int64
	for _, reads := range a.Data {
		for _, blocks := range reads {
			ids = append(ids, blocks...)
		}
	}
	return ids
}

func (a readTestWriteAnswer) refuses() bool { return !a.Success }

// slotRead is a GET of a part of one share.
type slotRead struct {
	Share int64 `json:"share"`
	span
}

func (r slotRead) apply(before state) (state, string) {
	blocks, found := before.(*slotState).blocks(r.Share)
	if !found {
		return before, readAnswer{Status: 404}.text()
	}
	return before, readAnswer{Status: 200, Blocks: r.of(blocks)}.text()
}

func (r slotRead) writes() []int64 { return nil }
func (r slotRead) onlyReads() bool { return true }

// readAnswer is the answer to a read of either kind of share. All good statuses are recorded as 200.
type readAnswer struct {
	Status int     `json:"status"`
	Blocks []int64 `json:"blocks,omitempty"`
}

func (a readAnswer) text() string {
	if a.Status != 200 {
		return fmt.Sprint(a.Status)
	}
	return fmt.Sprint(a.Blocks)
}

func (a readAnswer) sees() []int64 { return a.Blocks }
func (a readAnswer) refuses() bool { return true }

// slotList asks which shares there are.
type slotList struct{}

func (slotList) apply(before state) (state, string) {
	var numbers []int64
	for _, share := range before.(*slotState).shares {
		numbers = append(numbers, share.number)
	}
	return before, listAnswer{Status: 200, Shares: numbers}.text()
}

func (slotList) writes() []int64 { return nil }
func (slotList) onlyReads() bool { return true }

// listAnswer is the answer to slotList, ascending.
type listAnswer struct {
	Status int     `json:"status"`
	Shares []int64 `json:"shares"`
}

func (a listAnswer) text() string {
	if a.Status != 200 {
		return fmt.Sprint(a.Status)
	}
	return "shares " + strings.Trim(fmt.Sprint(a.Shares), "[]")
}

func (a listAnswer) sees() []int64 { return nil }
func (a listAnswer) refuses() bool { return true }
