// Locks: waits in the server's FIFO queue, renews the lease, and stops the work when the lock is lost.

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	"time"

	"github.com/gomodule/redigo/redis"
)

// WithLock runs work while this process holds the lock. The context ends when the lock is lost. The fencing token grows
// with every grant: what work writes to should refuse a smaller one.
func (r *Redis) WithLock(name string, ttl, wait time.Duration, work func(ctx context.Context, fence int64) error) error {
	me := newID()
	// Also after an error: this identifier may wait in the queue, or have been granted the lock.
	defer func() {
		if _, err := r.Ask("LOCK.RELEASE", name, me); err != nil {
			log.Printf("%s is free when its lease expires: %v", name, err)
		}
	}()
	ask := []any{name, me, ms(ttl), "FENCE"}
	fence, err := redis.Int64(r.Ask("LOCK.ACQUIRE", ask...))
	if err == nil && fence == 0 {
		fence, err = redis.Int64(r.Wait(wait, "LOCK.ACQUIRE", ask...))
	}
	if err != nil {
		return err
	}
	if fence == 0 {
		return fmt.Errorf("%s was not granted within %v", name, wait)
	}

	ctx, lose := context.WithCancel(context.Background())
	defer lose()
	// The lease has begun before the reply arrived, so the first renewal is due at once.
	expiry := time.AfterFunc(ttl, lose)
	defer expiry.Stop()
	renew := func() bool {
		asked := time.Now()
		held, err := redis.Int(r.Ask("LOCK.EXTEND", name, me, ms(ttl)))
		if err != nil {
			log.Printf("%s is not renewed: %v", name, err) // again after a third of the lease, until it expires
			return true
		}
		if held == 0 {
			lose()
			return false
		}
		expiry.Reset(time.Until(asked.Add(ttl)))
		return true
	}
	renew()
	defer Every(ttl/3, renew)()
	return work(ctx, fence)
}

func newID() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic(err)
	}
	return hex.EncodeToString(id)
}
