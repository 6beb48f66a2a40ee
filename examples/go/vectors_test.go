// The cases of clients/vectors.json that concern what this program does: tasks and cached values.

package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

type vectors struct {
	Cached []struct {
		Value any
		Text  string
	}
	Payloads struct {
		Valid []struct {
			Payload   string
			Arguments map[string]any
		}
		Invalid []struct {
			Payload     string
			PayloadHex  string `json:"payload_hex"`
			ContentType string `json:"content_type"`
		}
	}
	Deliveries []struct {
		Title      string
		ID         string
		Fields     [][2]string
		Deliveries int64
		Task       string
		OriginalID string `json:"original_id"`
		Attempt    int
	}
	Outcomes []struct {
		Title, Ends, Message string
		Attempt              int
		Tries                *int
		DelayMS              int64 `json:"delay_ms"`
		Command              []any // with "…" where the text is free
	}
}

func read(t *testing.T) (cases vectors) {
	text, err := os.ReadFile("../../clients/vectors.json")
	if err == nil {
		err = json.Unmarshal(text, &cases)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestCachedValues(t *testing.T) {
	for _, one := range read(t).Cached {
		var value any
		if err := json.Unmarshal([]byte(one.Text), &value); err != nil || !reflect.DeepEqual(value, one.Value) {
			t.Errorf("%s is %v, %v", one.Text, value, err)
		}
	}
}

func TestPayloads(t *testing.T) {
	cases := read(t).Payloads
	for _, one := range cases.Valid {
		var arguments map[string]any
		task := &Task{Fields: map[string]string{"payload": one.Payload}}
		if err := task.Decode(&arguments); err != nil || !reflect.DeepEqual(arguments, one.Arguments) {
			t.Errorf("%s: %v, %v", one.Payload, arguments, err)
		}
	}
	for _, one := range cases.Invalid {
		if bytes, err := hex.DecodeString(one.PayloadHex); err == nil && len(bytes) > 0 {
			one.Payload = string(bytes)
		}
		var arguments map[string]any
		var fatal Fatal
		task := &Task{Fields: map[string]string{"payload": one.Payload, "content-type": one.ContentType}}
		if err := task.Decode(&arguments); !errors.As(err, &fatal) {
			t.Errorf("%+v: %v", one, err)
		}
	}
}

func TestDeliveries(t *testing.T) {
	for _, one := range read(t).Deliveries {
		var fields []any
		for _, pair := range one.Fields {
			fields = append(fields, []byte(pair[0]), []byte(pair[1]))
		}
		task, err := parse([]any{[]byte(one.ID), fields, int64(0), one.Deliveries, []byte("mail")})
		if err != nil || task.Name != one.Task || task.ID != one.OriginalID || task.Attempt != one.Attempt {
			t.Errorf("%s: %+v, %v", one.Title, task, err)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, one := range read(t).Outcomes {
		outcomes := map[string]error{
			"return":      nil,
			"error":       errors.New(one.Message),
			"fatal":       Fatal(one.Message),
			"later":       Later(time.Duration(one.DelayMS) * time.Millisecond),
			"bad payload": Fatal("no JSON"),
			"unknown":     Later(unknownDelay),
		}
		outcome, known := outcomes[one.Ends]
		if !known {
			t.Fatalf("%s: what is %q?", one.Title, one.Ends)
		}
		if one.Ends == "error" && one.Tries != nil && one.Attempt >= *one.Tries {
			continue // handlers of this program have no tries of their own
		}
		task := &Task{Queue: "mail", entry: "1-0", consumer: "w1"}
		name, args := task.report(outcome)
		words := strings.TrimSpace(fmt.Sprintln(append([]any{name}, args...)...))
		expected := strings.TrimSpace(fmt.Sprintln(one.Command...))
		start, end, _ := strings.Cut(expected, "…")
		if !strings.HasPrefix(words, start) || !strings.HasSuffix(words, end) {
			t.Errorf("%s: %v instead of %v", one.Title, words, expected)
		}
	}
}
