package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// lineBytesMax bounds one line of a history; the recorder's are a few hundred bytes.
const lineBytesMax = 1 << 20

// line is one operation of a history as the recorder writes it. Times are nanoseconds of one monotonic clock; an
// operation without "return" has an unknown outcome: it may take effect at any time after its call, or never.
type line struct {
	Client int             `json:"client"`
	Model  string          `json:"model"`
	Key    string          `json:"key"`
	Kind   string          `json:"kind"`
	Call   int64           `json:"call"`
	Return *int64          `json:"return,omitempty"`
	Input  json.RawMessage `json:"input"`
	Output json.RawMessage `json:"output,omitempty"`
}

// operation is a line that has been understood.
type operation struct {
	line
	// change is the request; it knows what it does to a state.
	change request
	// result is the recorded answer, and answer the same in the form that request.apply gives; neither if the outcome
	// is unknown.
	result answer
	answer string
}

// unknown says whether nobody knows if the operation took effect.
func (o *operation) unknown() bool { return o.Return == nil }

// request is what a client asked for: a deterministic change of a state.
type request interface {
	// apply gives the state afterwards and the only right answer. It changes neither the request nor the state.
	apply(before state) (after state, answer string)
	// writes gives the ids of the blocks that the request would write, if it is by them alone that it can be seen.
	writes() []int64
	// onlyReads says that the request never changes anything.
	onlyReads() bool
}

// state is what one key holds. Two states are equal if their texts are.
type state interface{ text() string }

// readHistory reads JSON lines and sorts them by key, in the order of the keys' first lines.
func readHistory(input io.Reader) ([]string, map[string][]*operation, error) {
	scanner := bufio.NewScanner(input)
	scanner.Buffer(nil, lineBytesMax)
	var keys []string
	byKey := map[string][]*operation{}
	for number := 1; scanner.Scan(); number++ {
		if strings.TrimSpace(scanner.Text()) == "" {
			continue
		}
		parsed, err := parse(scanner.Bytes())
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", number, err)
		}
		key := parsed.Model + " " + parsed.Key
		if len(byKey[key]) == 0 {
			keys = append(keys, key)
		}
		byKey[key] = append(byKey[key], parsed)
	}
	return keys, byKey, scanner.Err()
}

// parse understands one line.
func parse(text []byte) (*operation, error) {
	parsed := &operation{}
	if err := strictly(text, &parsed.line); err != nil {
		return nil, err
	}
	if parsed.Return != nil && *parsed.Return < parsed.Call {
		return nil, errors.New("operation returns before its call")
	}
	if parsed.unknown() != (len(parsed.Output) == 0) {
		return nil, errors.New("an operation has a return and an output, or neither")
	}
	kinds := map[string]map[string]decoder{"slot": slotKinds, "share": shareKinds}[parsed.Model]
	decode, ok := kinds[parsed.Kind]
	if !ok {
		return nil, fmt.Errorf("no operation %q of a %q", parsed.Kind, parsed.Model)
	}
	var err error
	if parsed.change, parsed.result, err = decode(parsed.Input, parsed.Output); err != nil {
		return nil, err
	}
	if parsed.result != nil {
		parsed.answer = parsed.result.text()
	}
	return parsed, nil
}

// decoder understands the request of one kind and, if there is one, the answer to it.
type decoder func(input, output json.RawMessage) (request, answer, error)

// answer is what came back from the server.
type answer interface {
	// text is the form in which answers are compared; equal answers have equal texts.
	text() string
	// sees gives the ids of the blocks in it.
	sees() []int64
	// refuses says that the answer proves that nothing was changed.
	refuses() bool
}

// decoderOf makes the decoder of a kind from the types of its requests and answers.
func decoderOf[R request, A answer]() decoder {
	return func(input, output json.RawMessage) (request, answer, error) {
		var change R
		if err := strictly(input, &change); err != nil {
			return nil, nil, fmt.Errorf("input: %w", err)
		}
		if len(output) == 0 {
			return change, nil, nil
		}
		var given A
		if err := strictly(output, &given); err != nil {
			return nil, nil, fmt.Errorf("output: %w", err)
		}
		return change, given, nil
	}
}

// strictly decodes JSON and refuses fields that are not known: a misspelt one would be an input that nobody checks.
func strictly(text []byte, into any) error {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
