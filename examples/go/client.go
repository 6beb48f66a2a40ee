// Connections: a pool for commands that are answered at once, and a new one for each command that waits.

package main

import (
	"time"

	"github.com/gomodule/redigo/redis"
)

type Redis struct {
	url  string
	pool *redis.Pool
}

func Connect(url string) *Redis {
	r := &Redis{url: url}
	r.pool = &redis.Pool{
		MaxIdle:     8,
		IdleTimeout: time.Minute,
		Dial:        func() (redis.Conn, error) { return r.Dial(0) },
		TestOnBorrow: func(conn redis.Conn, idle time.Time) error {
			if time.Since(idle) < time.Second {
				return nil
			}
			_, err := conn.Do("PING")
			return err
		},
	}
	return r
}

// Dial makes a connection whose replies take block longer than usual.
func (r *Redis) Dial(block time.Duration) (redis.Conn, error) {
	return redis.DialURL(r.url, redis.DialConnectTimeout(time.Second), redis.DialWriteTimeout(time.Second),
		redis.DialReadTimeout(block+2*time.Second))
}

// Ask sends a command that does not wait.
func (r *Redis) Ask(command string, args ...any) (any, error) {
	conn := r.pool.Get()
	defer conn.Close()
	return conn.Do(command, args...)
}

// Wait sends a command with BLOCK. It has a connection of its own, so that nothing else has to wait for it.
func (r *Redis) Wait(block time.Duration, command string, args ...any) (any, error) {
	conn, err := r.Dial(block)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Do(command, append(args, "BLOCK", ms(block))...)
}

func ms(duration time.Duration) int64 { return duration.Milliseconds() }

// Every calls f at intervals, until it returns false or stop is called. When stop returns, f no longer runs.
func Every(interval time.Duration, f func() bool) (stop func()) {
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-stopping:
				return
			case <-ticker.C:
				if !f() {
					return
				}
			}
		}
	}()
	return func() { close(stopping); <-stopped }
}
