// A small shop, whose queues and cached values are those of the shops in the other languages.
//
//	shop product 7                                       a cached query
//	shop publish mail welcome '{"to": "ann@example.org"}'
//	shop worker                                          sends mails, until SIGTERM or SIGINT
//	shop report                                          runs under a lock
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	urgent = "{shop}:urgent"
	mail   = "{shop}:mail"
)

func main() {
	log.SetFlags(0)
	shop := &Shop{
		redis: Connect(setting("CORRAL_URL", "redis://localhost:6379")),
		dir:   setting("SHOP_DIR", "."),
		lease: duration("SHOP_LEASE_MS", 10*time.Second),
	}
	if err := shop.run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func (s *Shop) run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "product":
		cache := &Cache{Redis: s.redis, Lease: s.lease, TTL: 5 * time.Minute, Stale: time.Hour, BackOff: 10 * time.Second, Wait: 30 * time.Second}
		product, err := Cached(cache, "product:"+args[1], func() (*Product, error) { return s.product(args[1]) })
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(product)
	case len(args) == 4 && args[0] == "publish":
		id, err := redis.String(s.redis.Ask("TASK.PUBLISH", "{shop}:"+args[1], args[3], "FIELDS", 1, "task", args[2]))
		fmt.Println(id)
		return err
	case len(args) == 1 && args[0] == "report":
		return s.redis.WithLock("{shop}:report", s.lease, 30*time.Second, s.report)
	case len(args) == 1 && args[0] == "worker":
		return s.worker()
	default:
		return errors.New("expected: product ID | publish QUEUE TASK JSON | report | worker")
	}
}

func (s *Shop) worker() error {
	stop, restore := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop.Done()
		restore() // the second signal ends the process at once
	}()
	return (&Worker{
		Redis:       s.redis,
		Queues:      []string{urgent, mail},
		Concurrency: 4,
		StopAfter:   duration("SHOP_STOP_MS", 25*time.Second),
		Handlers: map[string]Handler{
			"new_password": s.letter("Your new password"),
			"welcome":      s.letter("Welcome"),
			"newsletter":   s.newsletter,
		},
	}).Run(stop)
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func duration(name string, otherwise time.Duration) time.Duration {
	if value, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return time.Duration(value) * time.Millisecond
	}
	return otherwise
}
