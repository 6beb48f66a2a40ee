// A task as docs/wire.md describes it, and what becomes of it.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/gomodule/redigo/redis"
)

const group = "workers"

// How long a task waits that no handler here knows. During a deploy, a newer worker takes it.
const unknownDelay = 10 * time.Second

type Task struct {
	Queue   string
	Name    string // selects the handler
	ID      string // the same in every try
	Attempt int    // from 1
	Fields  map[string]string

	entry    string // the id for commands
	consumer string // who has the lease
	expires  time.Time
	ctx      context.Context
	cancel   context.CancelFunc
}

// A Handler returns nil, Fatal, Later, or another error: the task is retried with back-off. Its context ends when the
// lease is lost, or when the worker has to stop.
type Handler func(ctx context.Context, task *Task) error

// Fatal sends a task to the dead-letter queue.
type Fatal string

func (reason Fatal) Error() string { return string(reason) }

// Later returns a task that cannot run now. The try does not count.
type Later time.Duration

func (delay Later) Error() string { return fmt.Sprintf("again in %v", time.Duration(delay)) }

// parse reads an element of a reply of TASK.CONSUME … THEN: id, fields, idle_ms, deliveries, queue.
func parse(reply any) (*Task, error) {
	parts, err := redis.Values(reply, nil)
	if err != nil {
		return nil, err
	}
	task := &Task{}
	var pairs []any
	var idle, deliveries int
	if _, err := redis.Scan(parts, &task.entry, &pairs, &idle, &deliveries, &task.Queue); err != nil {
		return nil, err
	}
	if task.Fields, err = redis.StringMap(pairs, nil); err != nil {
		return nil, err
	}
	task.Name, task.ID = task.Fields["task"], task.Fields["original_id"]
	if task.Name == "" {
		task.Name = "default"
	}
	if task.ID == "" {
		task.ID = task.entry
	}
	failed := 0
	fmt.Sscan(task.Fields["retry_count"], &failed) // 0 if it is not a number
	task.Attempt = failed + deliveries
	return task, nil
}

// Decode reads the payload, the arguments of the handler by name.
func (t *Task) Decode(arguments any) error {
	if kind := t.Fields["content-type"]; kind != "" && kind != "application/json" {
		return Fatal("unknown content-type " + kind)
	}
	payload := []byte(t.Fields["payload"])
	var object map[string]json.RawMessage
	if err := json.Unmarshal(payload, &object); err != nil || object == nil || !utf8.Valid(payload) {
		return Fatal("the payload is not a JSON object")
	}
	return json.Unmarshal(payload, arguments)
}

// report is the command that ends a try.
func (t *Task) report(outcome error) (command string, args []any) {
	nack := func(how string, more ...any) (string, []any) {
		return "TASK.NACK", append([]any{t.Queue, group, t.consumer, how, t.entry}, more...)
	}
	var fatal Fatal
	var later Later
	switch {
	case outcome == nil:
		return "TASK.ACK", []any{t.Queue, group, t.entry}
	case errors.As(outcome, &fatal):
		return nack("FATAL", "REASON", string(fatal))
	case errors.As(outcome, &later):
		return nack("SILENT", "DELAY", ms(time.Duration(later)))
	default:
		return nack("FAIL", "REASON", outcome.Error())
	}
}
