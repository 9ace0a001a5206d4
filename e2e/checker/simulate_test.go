package main

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A simulated server: what it does between call and return is one application of the request to its state, unless a
// bug is planted.
type server struct {
	random *rand.Rand
	key    string
	now    int64
	state  state
	before []state // earlier states, the oldest first
	open   []*pending
	done   []*operation
	bug    bug
	// lostOneIn is how many operations there are for one of unknown outcome.
	lostOneIn int
	// planted says that the bug showed: the state or an answer is not what it should be.
	planted bool
}

// pending is an operation between its call and its return.
type pending struct {
	operation *operation
	// applied says that it took effect; its answer is in operation.answer.
	applied bool
	// lost says that the client will never hear of it.
	lost bool
}

// bug changes what a server does when it applies a request. It says whether it did anything.
type bug func(s *server, change request) (after state, answer string, planted bool)

// run performs operations of several clients, each drawn by next, and gives the history.
func (s *server) run(clients, count int, next func(*server) request) []*operation {
	s.state = initial(s.key)
	free := make([]int, clients)
	for client := range free {
		free[client] = client
	}
	for begun := 0; begun < count || len(s.open) > 0; {
		s.now++
		switch choice := s.random.Intn(3); {
		case choice == 0 && begun < count && len(free) > 0:
			s.call(free[0], next(s))
			free, begun = free[1:], begun+1
		case choice == 1 && len(s.open) > 0:
			s.apply(s.open[s.random.Intn(len(s.open))])
		case len(s.open) > 0:
			at := s.random.Intn(len(s.open))
			if ended := s.open[at]; ended.applied || ended.lost {
				s.open = slices.Delete(s.open, at, at+1)
				free = append(free, s.finish(ended))
			}
		}
	}
	return s.done
}

func (s *server) call(client int, change request) {
	made := &operation{line: line{Client: client, Key: s.key, Kind: fmt.Sprintf("%T%+v", change, change), Call: s.now}}
	made.change = change
	s.open = append(s.open, &pending{operation: made, lost: s.random.Intn(s.lostOneIn) == 0})
}

func (s *server) apply(one *pending) {
	if one.applied {
		return
	}
	after, answer, planted := state(nil), "", false
	if s.bug != nil && !s.planted && !one.lost {
		after, answer, planted = s.bug(s, one.operation.change)
	}
	if !planted {
		after, answer = one.operation.change.apply(s.state)
	}
	s.planted = s.planted || planted
	if after.text() != s.state.text() {
		s.before = append(s.before, s.state)
	}
	s.state, one.applied, one.operation.answer = after, true, answer
}

// finish records an operation. One that is lost may have taken effect or not.
func (s *server) finish(one *pending) int {
	if one.lost {
		one.operation.answer = ""
	} else {
		one.operation.Return = new(int64)
		*one.operation.Return = s.now
		one.operation.result = seenAnswer{one.operation.answer, s.state}
	}
	s.done = append(s.done, one.operation)
	return one.operation.Client
}

// quietly performs one operation while no other runs.
func (s *server) quietly(change request) {
	s.now++
	s.call(0, change)
	one := s.open[0]
	one.lost, s.open, s.bug = false, nil, nil
	s.apply(one)
	s.now++
	s.finish(one)
}

// seenAnswer stands for the recorded answer in simulations; to be safe it has seen everything.
type seenAnswer struct {
	written string
	after   state
}

func (a seenAnswer) text() string  { return a.written }
func (a seenAnswer) refuses() bool { return false }
func (a seenAnswer) sees() []int64 {
	switch after := a.after.(type) {
	case *slotState:
		var ids []int64
		for _, share := range after.shares {
			ids = append(ids, share.blocks...)
		}
		return ids
	case *shareState:
		return after.blocks
	}
	return nil
}

// everything reads all of every share.
var everything = readTestWrite{Enabler: 1, Reads: []span{{0, 100}}}

// nextSlot draws requests as the driver does: mostly tested on what is there.
func nextSlot(s *server) request {
	id := s.now
	slot := s.state.(*slotState)
	share := int64(s.random.Intn(3))
	switch s.random.Intn(12) {
	case 0:
		return slotRead{share, span{int64(s.random.Intn(2)), 3}}
	case 1:
		return slotList{}
	case 2:
		return everything
	case 3: // no test
		return readTestWrite{1, []testWrite{{Share: share, Writes: []newBlock{{0, []int64{id, id}}}}}, everything.Reads}
	case 4: // removes
		blocks, _ := slot.blocks(share)
		tests := []test{{span{0, 1}, span{0, 1}.of(blocks)}}
		return readTestWrite{1, []testWrite{{Share: share, Tests: tests, Length: new(int64)}}, everything.Reads}
	case 5: // another's enabler
		return readTestWrite{2, []testWrite{{Share: share, Writes: []newBlock{{0, []int64{id}}}}}, everything.Reads}
	default: // several shares, tested
		var shares []testWrite
		for number := range int64(2) {
			blocks, _ := slot.blocks(number)
			shares = append(shares, testWrite{
				Share: number, Tests: []test{{span{0, 1}, span{0, 1}.of(blocks)}},
				Writes: []newBlock{{int64(s.random.Intn(2)), []int64{id, id}}},
			})
		}
		return readTestWrite{1, shares, everything.Reads}
	}
}

// nextShare draws requests of uploads and downloads.
func nextShare(s *server) request {
	share := s.state.(*shareState)
	at := int64(s.random.Intn(4))
	switch s.random.Intn(9) {
	case 0:
		return shareRead{span{at, 2}}
	case 1:
		return shareList{}
	case 2, 3:
		return allocate{Upload: s.now, Size: 4}
	case 4:
		if s.random.Intn(3) == 0 {
			return abort{share.upload}
		}
		return write{share.upload, at, []int64{9}} // differs
	default:
		upload := share.upload
		return write{upload, at, slices.Repeat([]int64{1000 + upload}, s.random.Intn(int(4-at))+1)}
	}
}

func checked(t *testing.T, key string, history []*operation) bool {
	t.Helper()
	result := check(key, history, time.Now().Add(time.Minute))
	if result == porcupine.Unknown {
		t.Fatal("gave up")
	}
	return result == porcupine.Ok
}

func TestGoodConcurrentHistoriesAreAccepted(t *testing.T) {
	for seed := range int64(150) {
		for key, next := range map[string]func(*server) request{"slot a": nextSlot, "share a": nextShare} {
			s := &server{random: rand.New(rand.NewSource(seed)), key: key, lostOneIn: 12}
			if !checked(t, key, s.run(8, 150, next)) {
				t.Fatalf("seed %d: good history of %s is refused", seed, key)
			}
		}
	}
}

func TestHistoriesOfLongOutagesAreChecked(t *testing.T) {
	for seed := range int64(30) {
		for key, next := range map[string]func(*server) request{"slot a": nextSlot, "share a": nextShare} {
			s := &server{random: rand.New(rand.NewSource(seed)), key: key, lostOneIn: 2}
			if !checked(t, key, s.run(8, 200, next)) {
				t.Fatalf("seed %d: good history of %s is refused", seed, key)
			}
		}
	}
}

// changed applies a request and says whether it changed the state.
func (s *server) changed(change request) (state, string, bool) {
	after, answer := change.apply(s.state)
	return after, answer, after.text() != s.state.text()
}

// rarely lets bugs show in the middle of a history.
func (s *server) rarely() bool { return len(s.before) > 5 && s.random.Intn(4) == 0 }

func vanishedWrite(s *server, change request) (state, string, bool) {
	_, answer, changed := s.changed(change)
	return s.state, answer, changed && s.rarely()
}

// lostUpdate tests on an older state and so writes over what came since.
func lostUpdate(s *server, change request) (state, string, bool) {
	if !s.rarely() {
		return nil, "", false
	}
	old := s.before[len(s.before)-1]
	after, answer := change.apply(old)
	_, right := change.apply(s.state)
	return after, answer, after.text() != old.text() && answer != right
}

func staleRead(s *server, change request) (state, string, bool) {
	if !s.rarely() || !change.onlyReads() {
		return nil, "", false
	}
	old := s.before[s.random.Intn(len(s.before)-3)]
	_, answer := change.apply(old)
	_, right := change.apply(s.state)
	return s.state, answer, answer != right
}

// tornWrite keeps the first share of a write of several.
func tornWrite(s *server, change request) (state, string, bool) {
	after, answer, changed := s.changed(change)
	vectors, ok := change.(readTestWrite)
	if !ok || !changed || len(vectors.Shares) < 2 || !s.rarely() {
		return nil, "", false
	}
	vectors.Shares = vectors.Shares[:1]
	torn, _ := vectors.apply(s.state)
	return torn, answer, torn.text() != after.text()
}

// doubledWrite applies the last write once more behind another one.
func doubledWrite(s *server, change request) (state, string, bool) {
	after, answer, changed := s.changed(change)
	vectors, ok := change.(readTestWrite)
	if !ok || !changed || !s.rarely() {
		return nil, "", false
	}
	// Somebody writes in between, so that the second time shows.
	between := readTestWrite{1, []testWrite{{Share: 0, Writes: []newBlock{{0, []int64{1 << 40}}}}}, nil}
	s.state = after
	middle, said := between.apply(after)
	called, returned := s.now+1, s.now+2
	s.now += 3
	s.done = append(s.done, &operation{
		line: line{Client: 99, Key: s.key, Kind: "between", Call: called, Return: &returned}, change: between,
		answer: said, result: seenAnswer{said, middle},
	})
	again := vectors.write(middle.(*slotState))
	return again, answer, again.text() != middle.text()
}

// secondFinish lets two writes of one upload answer 201.
func secondFinish(s *server, change request) (state, string, bool) {
	share, ok := s.state.(*shareState)
	_, writes := change.(write)
	return s.state, writeAnswer{Status: 201}.text(), ok && writes && share.phase == finished
}

// hole finishes a share of which a block never came.
func hole(s *server, change request) (state, string, bool) {
	after, _, changed := s.changed(change)
	_, writes := change.(write)
	share, ok := after.(*shareState)
	if !ok || !writes || !changed || share.phase != uploading || len(share.required()) != 1 {
		return nil, "", false
	}
	blocks := slices.Clone(share.blocks)
	for at, id := range blocks {
		if id == missing {
			blocks[at] = 0
		}
	}
	return newShare(finished, 0, blocks), writeAnswer{Status: 201}.text(), true
}

// falseAbsence answers 404 for a share that is there.
func falseAbsence(s *server, change request) (state, string, bool) {
	_, answer := change.apply(s.state)
	_, reads := change.(shareRead)
	return s.state, "404", reads && answer != "404"
}

func TestPlantedBugsAreRejected(t *testing.T) {
	slots := map[string]bug{
		"lost update": lostUpdate, "stale read": staleRead, "torn write": tornWrite, "doubled write": doubledWrite,
		"vanished write": vanishedWrite,
	}
	for name, bug := range slots {
		t.Run(name, func(t *testing.T) { rejectedOften(t, "slot a", bug, nextSlot, everything) })
	}
	shares := map[string]bug{
		"vanished share": vanishedShare, "second 201": secondFinish, "hole": hole, "false 404": falseAbsence,
	}
	for name, bug := range shares {
		t.Run(name, func(t *testing.T) { rejectedOften(t, "share a", bug, nextShare, shareRead{span{0, 4}}) })
	}
}

// vanishedShare answers the last piece of an upload and forgets it.
func vanishedShare(s *server, change request) (state, string, bool) {
	after, answer, changed := s.changed(change)
	return s.state, answer, changed && after.(*shareState).phase == finished
}

// rejectedOften plants a bug in many random histories. A concurrent operation of unknown outcome can excuse a few.
func rejectedOften(t *testing.T, key string, planted bug, next func(*server) request, last request) {
	shown, rejected := 0, 0
	for seed := range int64(150) {
		s := &server{random: rand.New(rand.NewSource(seed)), key: key, lostOneIn: 12, bug: planted}
		s.run(4, 150, next)
		s.quietly(last)
		if !s.planted {
			continue
		}
		shown++
		if !checked(t, key, s.done) {
			rejected++
		}
	}
	t.Logf("rejected %d of %d", rejected, shown)
	if shown < 50 || rejected < shown*8/10 {
		t.Fatalf("bug was planted %d times and found %d times", shown, rejected)
	}
}
