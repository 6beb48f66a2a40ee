// A worker: it waits for tasks of several queues, keeps their leases while they run, and returns what it cannot finish.

package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

const wait = 2 * time.Second // how long one request waits; a stop takes as long

type Worker struct {
	Redis       *Redis
	Queues      []string // the first one comes first
	Handlers    map[string]Handler
	Concurrency int
	StopAfter   time.Duration // what still runs that long after the stop is returned

	mutex   sync.Mutex
	running map[string]*Task // by queue and entry
	handled sync.WaitGroup
}

// Run works until the context ends.
func (w *Worker) Run(ctx context.Context) error {
	w.running = map[string]*Task{}
	lease, err := w.lease()
	if err != nil {
		return err // Corral is missing, or the server: a supervisor tries again
	}
	defer Every(lease/3, func() bool { w.beat(lease); return true })()
	conn := w.fetch(ctx, lease)
	w.finish()
	if conn != nil {
		conn.Close() // not before: the leases are tied to it
	}
	return nil
}

// lease returns the shortest lease of the queues.
func (w *Worker) lease() (time.Duration, error) {
	shortest := 24 * time.Hour // for queues whose leases never expire
	for _, queue := range w.Queues {
		info, err := redis.Values(w.Redis.Ask("TASK.INFO", queue))
		if err != nil {
			return 0, err
		}
		policy, err := redis.Int64Map(field(info, "policy"))
		if err != nil {
			return 0, err
		}
		if lease := time.Duration(policy["lease_ms"]) * time.Millisecond; lease > 0 && lease < shortest {
			shortest = lease
		}
	}
	return shortest, nil
}

// field finds a value in a map, which is a list of names and values in RESP2.
func field(pairs []any, name string) (any, error) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if found, _ := redis.String(pairs[i], nil); found == name {
			return pairs[i+1], nil
		}
	}
	return nil, fmt.Errorf("the reply has no %s", name)
}

// fetch asks for a task whenever one can start at once. What arrives after the stop goes back.
// The connection is returned.
func (w *Worker) fetch(ctx context.Context, lease time.Duration) redis.Conn {
	slots := make(chan struct{}, w.Concurrency)
	var conn redis.Conn
	var consumer string
	for {
		select {
		case <-ctx.Done():
		case slots <- struct{}{}:
		}
		if ctx.Err() != nil {
			return conn
		}
		var err error
		if conn == nil {
			consumer = fmt.Sprintf("%d-%s", os.Getpid(), newID())
			conn, err = w.Redis.Dial(wait)
		}
		var task *Task
		if err == nil {
			task, err = w.consume(conn, consumer, lease)
		}
		if err != nil { // a failover, a restart, a slot that is being moved
			log.Print("TASK.CONSUME: ", err)
			if conn != nil && !staysWith(err) {
				conn.Close()
				conn = nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		switch {
		case task == nil || !w.start(task):
			<-slots
		case ctx.Err() != nil:
			w.end(task, Later(0))
			<-slots
		default:
			w.handled.Add(1)
			go func() {
				defer w.handled.Done()
				defer func() { <-slots }()
				w.handle(task)
			}()
		}
	}
}

// staysWith is true for an error of the server: it does not end the leases that are tied to the connection. But if the
// server has become a replica, the address may lead to another one.
func staysWith(err error) bool {
	refused, answered := err.(redis.Error)
	text := string(refused)
	return answered && !strings.HasPrefix(text, "READONLY") && !strings.HasPrefix(text, "UNBLOCKED")
}

// consume returns nil if there is no task. With TIED the leases also end when this connection closes, so the tasks of a
// process that is killed are delivered again at once.
func (w *Worker) consume(conn redis.Conn, consumer string, lease time.Duration) (*Task, error) {
	args := redis.Args{group, consumer, w.Queues[0], "BLOCK", ms(wait), "META", "TIED"}
	if len(w.Queues) > 1 {
		args = args.Add("THEN", len(w.Queues)-1).AddFlat(w.Queues[1:])
	}
	tasks, err := redis.Values(conn.Do("TASK.CONSUME", args...))
	if err != nil || len(tasks) == 0 {
		return nil, err
	}
	task, err := parse(tasks[0])
	if err != nil {
		return nil, err
	}
	task.consumer, task.expires = consumer, time.Now().Add(lease)
	return task, nil
}

// start notes a task as running. One that runs here already, because its lease had expired, is not started again.
func (w *Worker) start(task *Task) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	key := task.Queue + " " + task.entry
	if here := w.running[key]; here != nil {
		here.consumer, here.expires = task.consumer, task.expires
		return false
	}
	task.ctx, task.cancel = context.WithCancel(context.Background())
	w.running[key] = task
	return true
}

func (w *Worker) handle(task *Task) {
	defer task.cancel()
	outcome := w.call(task)
	if outcome != nil && task.ctx.Err() != nil {
		outcome = Later(0) // it was interrupted, and has not failed
	}
	w.end(task, outcome)
}

func (w *Worker) call(task *Task) (outcome error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			outcome = fmt.Errorf("panic: %v", panicked)
		}
	}()
	handler := w.Handlers[task.Name]
	if handler == nil {
		log.Printf("%s %s: no handler for the task %q", task.Queue, task.ID, task.Name)
		return Later(unknownDelay)
	}
	return handler(task.ctx, task)
}

// end reports the outcome, again until the server answers. Otherwise the task would run once more.
func (w *Worker) end(task *Task, outcome error) {
	w.mutex.Lock()
	key := task.Queue + " " + task.entry
	held := w.running[key] == task
	delete(w.running, key)
	command, args := task.report(outcome)
	w.mutex.Unlock()
	if !held {
		return // finish has returned it
	}
	for tries := 0; ; tries++ {
		_, err := w.Redis.Ask(command, args...)
		if err == nil {
			break
		}
		log.Printf("%s %s: %s: %v", task.Queue, task.ID, command, err)
		if _, refused := err.(redis.Error); refused || tries == 10 {
			return // it is delivered again when its lease expires
		}
		time.Sleep(500 * time.Millisecond)
	}
	how := "done"
	if outcome != nil {
		how = outcome.Error()
	}
	log.Printf("%s %s: %s, try %d: %s", task.Queue, task.ID, task.Name, task.Attempt, how)
}

// beat renews the leases of all tasks that run, with one command per queue.
func (w *Worker) beat(lease time.Duration) {
	type holder struct{ queue, consumer string }
	held := map[holder][]*Task{}
	w.mutex.Lock()
	for _, task := range w.running {
		by := holder{task.Queue, task.consumer}
		held[by] = append(held[by], task)
	}
	w.mutex.Unlock()
	for by, tasks := range held {
		args := redis.Args{by.queue, group, by.consumer}
		for _, task := range tasks {
			args = args.Add(task.entry)
		}
		asked := time.Now()
		reply, err := w.Redis.Ask("TASK.EXTEND", args...)
		if one, single := reply.(int64); single {
			reply = []any{one} // for one id a number instead of an array
		}
		renewed, err := redis.Ints(reply, err)
		if err != nil {
			log.Print("TASK.EXTEND: ", err)
		}
		w.mutex.Lock()
		for i, task := range tasks {
			switch {
			case err == nil && renewed[i] == 1:
				task.expires = asked.Add(lease)
			case err == nil && task.consumer == by.consumer, time.Now().After(task.expires):
				task.cancel() // another worker has it
			}
		}
		w.mutex.Unlock()
	}
}

// finish waits for what runs, interrupts it when the time is up, and returns what still runs.
func (w *Worker) finish() {
	log.Printf("stopping: %d tasks run", len(w.tasks()))
	done := make(chan struct{})
	go func() { w.handled.Wait(); close(done) }()
	select {
	case <-done:
		return
	case <-time.After(w.StopAfter):
	}
	for _, task := range w.tasks() {
		task.cancel()
	}
	select {
	case <-done:
		return
	case <-time.After(2 * time.Second):
	}
	for _, task := range w.tasks() {
		w.end(task, Later(0))
	}
}

func (w *Worker) tasks() []*Task {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	tasks := make([]*Task, 0, len(w.running))
	for _, task := range w.running {
		tasks = append(tasks, task)
	}
	return tasks
}
