// Cached values: one load for all processes, stale values while it runs, and no load right after one that failed.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

type Cache struct {
	Redis   *Redis
	Lease   time.Duration // of a load; it is renewed, so it only has to be longer than a pause of this process
	TTL     time.Duration // how long a value is fresh
	Stale   time.Duration // how long it can be used after that
	BackOff time.Duration // after a failed load
	Wait    time.Duration // for another client's load

	mutex sync.Mutex
	calls map[string]*call
}

// A call that other goroutines of this process wait for.
type call struct {
	done  chan struct{}
	value []byte
	err   error
}

// Cached returns the value of a key, loaded if necessary. A cached value is JSON, so other languages can read it.
func Cached[T any](cache *Cache, key string, load func() (T, error)) (value T, err error) {
	encode := func() ([]byte, error) {
		loaded, err := load()
		if err != nil {
			return nil, err
		}
		return json.Marshal(loaded)
	}
	text, err := cache.get(key, encode)
	if err != nil {
		return value, err
	}
	if err = json.Unmarshal(text, &value); err == nil {
		return value, nil
	}
	log.Printf("%s does not decode, and is loaded again: %v", key, err)
	if _, err = cache.Redis.Ask("CACHE.INVALIDATE", key); err != nil {
		return load()
	}
	if text, err = cache.get(key, encode); err == nil {
		err = json.Unmarshal(text, &value)
	}
	return value, err
}

// get asks once per key, whatever the number of goroutines: each request that waits has a connection.
func (c *Cache) get(key string, load func() ([]byte, error)) ([]byte, error) {
	c.mutex.Lock()
	if other := c.calls[key]; other != nil {
		c.mutex.Unlock()
		<-other.done
		return other.value, other.err
	}
	if c.calls == nil {
		c.calls = map[string]*call{}
	}
	mine := &call{done: make(chan struct{}), err: errors.New("the load panicked")}
	c.calls[key] = mine
	c.mutex.Unlock()
	defer func() {
		c.mutex.Lock()
		delete(c.calls, key)
		c.mutex.Unlock()
		close(mine.done)
	}()
	mine.value, mine.err = c.fetch(key, load)
	return mine.value, mine.err
}

func (c *Cache) fetch(key string, load func() ([]byte, error)) ([]byte, error) {
	ask := []any{key, ms(c.Lease), "STALE", ms(c.Stale)}
	reply, err := redis.Values(c.Redis.Ask("CACHE.FETCH", ask...)) // status, value, token
	if err == nil && status(reply) == "WAIT" {
		reply, err = redis.Values(c.Redis.Wait(c.Wait, "CACHE.FETCH", ask...))
	}
	if err != nil { // the server is away, or out of memory
		log.Print("CACHE.FETCH: ", err)
		return load()
	}
	old, _ := reply[1].([]byte)
	switch status(reply) {
	case "HIT", "STALE":
		return old, nil
	case "LOAD":
		return c.load(key, reply[2], old, load)
	case "FAIL":
		return nil, fmt.Errorf("%s: the last load failed: %s", key, old)
	default:
		return nil, fmt.Errorf("%s: not loaded within %v", key, c.Wait)
	}
}

func (c *Cache) load(key string, token any, old []byte, load func() ([]byte, error)) ([]byte, error) {
	stop := Every(c.Lease/3, func() bool {
		held, err := redis.Int(c.Redis.Ask("CACHE.EXTEND", key, token, ms(c.Lease)))
		return err != nil || held == 1
	})
	value, failure := func() ([]byte, error) {
		defer stop()
		return load()
	}()
	var err error
	if failure == nil {
		_, err = c.Redis.Ask("CACHE.SET", key, value, ms(c.TTL+c.Stale), "TOKEN", token)
	} else {
		_, err = c.Redis.Ask("CACHE.FAIL", key, token, "BACKOFF", ms(c.BackOff), "REASON", failure.Error())
	}
	if err != nil {
		log.Printf("%s: %v", key, err)
	}
	if failure != nil && old != nil {
		log.Printf("%s: %v", key, failure)
		return old, nil // stale-if-error
	}
	return value, failure
}

func status(reply []any) string {
	text, _ := redis.String(reply[0], nil)
	return text
}
