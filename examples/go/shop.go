// What the shop does: its products, mails and report.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type Product struct {
	Name  string `json:"name"`
	Price int    `json:"price"`
}

type Shop struct {
	redis *Redis
	lease time.Duration // of locks and loads
	dir   string
}

// query is a look into the database, a directory. It takes as long as there is a file named slow, and fails if there is
// one named away.
func (s *Shop) query() error {
	for s.has("slow") {
		time.Sleep(20 * time.Millisecond)
	}
	if s.has("away") {
		return errors.New("the database is away")
	}
	return nil
}

func (s *Shop) has(name string) bool {
	_, err := os.Stat(filepath.Join(s.dir, name))
	return err == nil
}

// product returns nil for a product that does not exist, which is cached as well.
func (s *Shop) product(id string) (*Product, error) {
	log.Print("loading product ", id)
	if err := s.query(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "product-"+filepath.Base(id)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	product := &Product{}
	return product, json.Unmarshal(text, product)
}

// send sends a mail once, although a task may run twice: its id is the same every time.
func (s *Shop) send(task *Task, to, text string) error {
	if !strings.Contains(to, "@") || strings.Contains(to, "/") {
		return Fatal(fmt.Sprintf("%q is no address", to))
	}
	if err := s.query(); err != nil {
		return err
	}
	outbox := filepath.Join(s.dir, "outbox")
	if err := os.MkdirAll(outbox, 0o755); err != nil {
		return err
	}
	mail, err := os.OpenFile(filepath.Join(outbox, task.ID+" "+to), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer mail.Close()
	_, err = mail.WriteString(text)
	return err
}

func (s *Shop) letter(text string) Handler {
	return func(_ context.Context, task *Task) error {
		var arguments struct{ To string }
		if err := task.Decode(&arguments); err != nil {
			return err
		}
		return s.send(task, arguments.To, text)
	}
}

// newsletter takes long, so it looks whether it may go on. The next try finds what has been sent.
func (s *Shop) newsletter(ctx context.Context, task *Task) error {
	var arguments struct{ To []string }
	if err := task.Decode(&arguments); err != nil {
		return err
	}
	for _, to := range arguments.To {
		if err := s.send(task, to, "News"); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// report counts the mails. An older holder, which has been stopped for a while, does not overwrite a newer report.
func (s *Shop) report(ctx context.Context, fence int64) error {
	log.Print("report ", fence, " begins")
	for page := 0; page < 5; page++ {
		if err := s.query(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return errors.New("the lock is lost")
		}
	}
	mails, err := os.ReadDir(filepath.Join(s.dir, "outbox"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	path := filepath.Join(s.dir, "report")
	var newest int64
	if text, err := os.ReadFile(path); err == nil {
		fmt.Sscan(string(text), &newest)
	}
	if newest > fence {
		return errors.New("there is a newer report")
	}
	log.Print("report ", fence, " ends")
	return os.WriteFile(path, []byte(fmt.Sprintf("%d %d\n", fence, len(mails))), 0o644)
}
