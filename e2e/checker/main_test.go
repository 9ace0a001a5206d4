package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// verdictOf runs the program on a history, one operation a line, and gives its exit code and its report.
func verdictOf(t *testing.T, history string) (int, report) {
	t.Helper()
	var stdout, stderr strings.Builder
	code := run([]string{"-timeout", "30s"}, strings.NewReader(history), &stdout, &stderr)
	var printed report
	if code != 2 {
		if err := json.Unmarshal([]byte(stdout.String()), &printed); err != nil {
			t.Fatalf("printed %q: %v", stdout.String(), err)
		}
	}
	return code, printed
}

// Short forms of the lines of a history.
func slotWrite(times, tests, ids string, shares ...string) string {
	var vectors []string
	for _, share := range shares {
		vectors = append(vectors, `{"share":`+share+`,"tests":[`+tests+`],"writes":[{"offset":0,"blocks":[`+ids+`]}]}`)
	}
	return `{"client":1,"model":"slot","key":"a","kind":"read_test_write",` + times +
		`"input":{"enabler":1,"shares":[` + strings.Join(vectors, ",") + `],"reads":[{"offset":0,"count":9}]}`
}

func wrote(data string) string {
	return `,"output":{"status":200,"success":true,"data":{` + data + `}}}` + "\n"
}

func slotRead0(times, output string) string {
	return `{"client":2,"model":"slot","key":"a","kind":"read",` + times +
		`"input":{"share":0,"offset":0,"count":9},"output":{` + output + `}}` + "\n"
}

func slotReadAll(times, data string) string {
	return `{"client":2,"model":"slot","key":"a","kind":"read_test_write",` + times +
		`"input":{"enabler":1,"shares":[],"reads":[{"offset":0,"count":9}]}` + wrote(data)
}

func shareOp(kind, times, input, output string) string {
	text := `{"client":1,"model":"share","key":"b 0","kind":"` + kind + `",` + times + `"input":{` + input + `}`
	if output != "" {
		text += `,"output":{` + output + `}`
	}
	return text + "}\n"
}

const empty = `{"offset":0,"count":1,"specimen":[]}`
const holds11 = `{"offset":0,"count":1,"specimen":[11]}`

var created = slotWrite(`"call":1,"return":2,`, empty, "11", "0") + wrote("")

var uploaded = shareOp("allocate", `"call":1,"return":2,`, `"upload":7,"size":2`, `"status":200,"answer":"allocated"`) +
	shareOp("write", `"call":3,"return":4,`, `"upload":7,"offset":0,"blocks":[5]`, `"status":200,"required":[[1,2]]`)

var lastPiece = shareOp("write", `"call":5,"return":6,`, `"upload":7,"offset":1,"blocks":[5]`, `"status":201`)

func TestHistories(t *testing.T) {
	cases := []struct {
		name, history string
		code          int
	}{
		{"concurrent writes, one wins", created +
			slotWrite(`"call":3,"return":6,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
			slotWrite(`"call":4,"return":5,`, holds11, "13", "0") +
			`,"output":{"status":200,"success":false,"data":{"0":[[12]]}}}` + "\n", 0},
		{"lost update: two writes on one version", created +
			slotWrite(`"call":3,"return":6,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
			slotWrite(`"call":4,"return":5,`, holds11, "13", "0") + wrote(`"0":[[11]]`), 1},
		{"read beside a write sees either", created +
			slotWrite(`"call":3,"return":6,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
			slotRead0(`"call":4,"return":5,`, `"status":200,"blocks":[11]`), 0},
		{"stale read", created +
			slotWrite(`"call":3,"return":4,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
			slotRead0(`"call":5,"return":6,`, `"status":200,"blocks":[11]`), 1},
		{"false 404", created + slotRead0(`"call":5,"return":6,`, `"status":404`), 1},
		{"reads that go back in time beside one write", created +
			slotWrite(`"call":3,"return":10,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
			slotRead0(`"call":4,"return":5,`, `"status":200,"blocks":[12]`) +
			slotRead0(`"call":6,"return":7,`, `"status":200,"blocks":[11]`), 1},
		{"torn write of two shares", slotWrite(`"call":1,"return":2,`, empty, "11", "0", "1") + wrote("") +
			slotWrite(`"call":3,"return":4,`, holds11, "12", "0", "1") + wrote(`"0":[[11]],"1":[[11]]`) +
			slotReadAll(`"call":5,"return":6,`, `"0":[[12]],"1":[[11]]`), 1},
		{"torn block", created + slotRead0(`"call":5,"return":6,`, `"status":200,"blocks":[-1]`), 1},
		{"doubled write", created +
			slotWrite(`"call":3,"return":4,`, "", "12", "0") + wrote(`"0":[[11]]`) +
			slotWrite(`"call":5,"return":6,`, "", "13", "0") + wrote(`"0":[[12]]`) +
			slotRead0(`"call":7,"return":8,`, `"status":200,"blocks":[12]`), 1},
		{"doubled write of unknown outcome", created +
			slotWrite(`"call":3,`, "", "12", "0") + "}\n" +
			slotRead0(`"call":4,"return":5,`, `"status":200,"blocks":[12]`) +
			slotWrite(`"call":6,"return":7,`, "", "13", "0") + wrote(`"0":[[12]]`) +
			slotRead0(`"call":8,"return":9,`, `"status":200,"blocks":[12]`), 1},
		{"unknown write takes effect late", created +
			slotWrite(`"call":3,`, holds11, "12", "0") + "}\n" +
			slotRead0(`"call":4,"return":5,`, `"status":200,"blocks":[11]`) +
			slotRead0(`"call":6,"return":7,`, `"status":200,"blocks":[12]`), 0},
		{"unknown write never takes effect", created +
			slotWrite(`"call":3,`, holds11, "12", "0") + "}\n" +
			slotRead0(`"call":6,"return":7,`, `"status":200,"blocks":[11]`), 0},
		{"unknown write takes effect before its call", created +
			slotRead0(`"call":3,"return":4,`, `"status":200,"blocks":[12]`) +
			slotWrite(`"call":5,`, holds11, "12", "0") + "}\n", 1},
		{"acknowledged write vanishes", created +
			slotWrite(`"call":3,"return":4,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
			slotReadAll(`"call":5,"return":6,`, `"0":[[11]]`), 1},
		{"two pieces finish a share", uploaded + lastPiece, 0},
		{"acknowledged share vanishes", uploaded + lastPiece + shareOp("read", `"call":7,"return":8,`, `"offset":0,"count":2`, `"status":404`), 1},
		{"second 201", uploaded + lastPiece +
			shareOp("write", `"call":7,"return":8,`, `"upload":7,"offset":1,"blocks":[5]`, `"status":201`), 1},
		{"unknown last piece finishes a share", uploaded +
			shareOp("write", `"call":5,`, `"upload":7,"offset":1,"blocks":[5]`, "") +
			shareOp("read", `"call":7,"return":8,`, `"offset":0,"count":2`, `"status":200,"blocks":[5,5]`), 0},
		{"share with a hole", uploaded + shareOp("read", `"call":7,"return":8,`, `"offset":0,"count":2`, `"status":200,"blocks":[5,0]`), 1},
		{"one number granted to two", uploaded +
			shareOp("allocate", `"call":5,"return":6,`, `"upload":8,"size":2`, `"status":200,"answer":"allocated"`), 1},
		{"finished share aborted", uploaded + lastPiece + shareOp("abort", `"call":7,"return":8,`, `"upload":7`, `"status":200`), 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if code, printed := verdictOf(t, c.history); code != c.code {
				t.Fatalf("exit code %d, not %d: %+v", code, c.code, printed)
			}
		})
	}
}

func TestReportShowsTheFault(t *testing.T) {
	history := created +
		slotRead0(`"call":3,"return":4,`, `"status":200,"blocks":[11]`) +
		slotWrite(`"call":5,"return":6,`, holds11, "12", "0") + wrote(`"0":[[11]]`) +
		slotRead0(`"call":7,"return":8,`, `"status":200,"blocks":[12]`) +
		slotRead0(`"call":9,"return":10,`, `"status":200,"blocks":[11]`) +
		slotRead0(`"call":11,"return":12,`, `"status":200,"blocks":[12]`)
	_, printed := verdictOf(t, history+uploaded)
	if printed.Key != "slot a" || printed.Operations != 8 || len(printed.Partial) != 3 {
		t.Fatalf("report %+v", printed)
	}
	if printed.Partial[2].Call != 9 || printed.State != "enabler 1, [{0 [12]}]" || printed.Fitting != 2 {
		t.Fatalf("report %+v", printed)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for _, history := range []string{
		"", "{", `{"client":1}`,
		shareOp("delete", `"call":1,"return":2,`, ``, `"status":200`),
		shareOp("read", `"call":3,"return":2,`, `"offset":0,"count":2`, `"status":404`),
		shareOp("read", `"call":1,"return":2,`, `"offset":0,"count":2`, ``),
		shareOp("read", `"call":1,"return":2,`, `"offset":0,"length":2`, `"status":404`),
	} {
		if code, _ := verdictOf(t, history); code != 2 {
			t.Errorf("exit code %d for %q", code, history)
		}
	}
}
