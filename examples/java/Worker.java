import java.io.IOException;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;

/** A worker: it waits for tasks of several queues, keeps their leases while they run, and returns what it cannot finish. */
final class Worker {
    /** Returns, or throws Task.Fatal, Task.Later, or another exception: then the task is retried with back-off. */
    interface Handler {
        void handle(Task task) throws Exception;
    }

    /** How long one request waits; a stop takes as long. */
    private static final Duration WAIT = Duration.ofSeconds(2);

    private final Redis redis;
    private final List<String> queues;    // the first one comes first
    private final Map<String, Handler> handlers;
    private final int concurrency;
    private final Duration stopAfter;     // what still runs that long after the stop is returned
    private final Map<String, Task> running = new HashMap<>();
    private final CountDownLatch stopping = new CountDownLatch(1), stopped = new CountDownLatch(1);
    private Duration lease;
    private Redis.Connection waiting;
    private String consumer;

    Worker(Redis redis, List<String> queues, Map<String, Handler> handlers, int concurrency, Duration stopAfter) {
        this.redis = redis;
        this.queues = queues;
        this.handlers = handlers;
        this.concurrency = concurrency;
        this.stopAfter = stopAfter;
    }

    /** Asks for no more tasks, and waits until what runs is finished or returned. */
    void stop() throws InterruptedException {
        stopping.countDown();
        stopped.await();
    }

    private boolean isStopping() { return stopping.getCount() == 0; }

    /** Works until another thread calls `stop`. */
    void run() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(concurrency, work -> {
            Thread thread = new Thread(work);
            thread.setDaemon(true);
            return thread;
        });
        try {
            lease = shortestLease();    // an error: Corral is missing, or the server. A supervisor tries again
            try (Redis.Handle heartbeat = redis.every(lease.dividedBy(3), this::beat)) {
                fetch(threads);
                finish(threads);
            }
        } finally {
            if (waiting != null) waiting.close();    // not before: the leases are tied to it
            stopped.countDown();
        }
    }

    private Duration shortestLease() throws IOException {
        long shortest = Duration.ofDays(1).toMillis();    // for queues whose leases never expire
        for (String queue : queues) {
            Map<String, Object> policy = Redis.map(Redis.map(redis.ask("TASK.INFO", queue)).get("policy"));
            long lease = Redis.number(policy.get("lease_ms"));
            if (lease > 0) shortest = Math.min(shortest, lease);
        }
        return Duration.ofMillis(shortest);
    }

    /** Asks for a task whenever one can start at once. What arrives after the stop goes back. */
    private void fetch(ExecutorService threads) throws InterruptedException {
        Semaphore slots = new Semaphore(concurrency);
        while (!isStopping()) {
            if (!slots.tryAcquire(WAIT.toMillis(), TimeUnit.MILLISECONDS)) continue;
            Task task = null;
            try {
                task = consume();
            } catch (IOException error) {    // a failover, a restart, a slot that is being moved
                System.err.println("TASK.CONSUME: " + error.getMessage());
                if (waiting != null && !staysWith(error)) {
                    waiting.close();
                    waiting = null;
                }
                stopping.await(1, TimeUnit.SECONDS);
            }
            if (task == null || !start(task)) {
                slots.release();
            } else if (isStopping()) {
                end(task, new Task.Later(Duration.ZERO));
            } else {
                Task mine = task;
                threads.execute(() -> {
                    try {
                        handle(mine);
                    } finally {
                        slots.release();
                    }
                });
            }
        }
    }

    /**
     * True for an error of the server: it does not end the leases that are tied to the connection. But if the server has
     * become a replica, the address may lead to another one.
     */
    private static boolean staysWith(IOException error) {
        return error instanceof Redis.Refused && !error.getMessage().matches("(?s)(READONLY|UNBLOCKED).*");
    }

    /**
     * Returns null if there is no task. With TIED the leases also end when this connection closes, so the tasks of a
     * process that is killed are delivered again at once.
     */
    private Task consume() throws IOException {
        if (waiting == null) {
            waiting = redis.connect(WAIT);
            consumer = ProcessHandle.current().pid() + "-" + UUID.randomUUID();
        }
        List<Object> command = new ArrayList<>(List.of("TASK.CONSUME", Task.GROUP, consumer, queues.get(0)));
        command.addAll(List.of("BLOCK", WAIT.toMillis(), "META", "TIED", "THEN", queues.size() - 1));
        command.addAll(queues.subList(1, queues.size()));
        List<?> tasks = Redis.list(waiting.call(command.toArray()));
        if (tasks.isEmpty()) return null;
        Task task = new Task(Redis.list(tasks.get(0)), consumer);
        task.leased(System.nanoTime(), lease);
        return task;
    }

    /** Notes a task as running. One that runs here already, because its lease had expired, is not started again. */
    private synchronized boolean start(Task task) {
        Task here = running.putIfAbsent(task.key(), task);
        if (here != null) {
            here.consumer = task.consumer;
            here.leased(System.nanoTime(), lease);
        }
        return here == null;
    }

    private void handle(Task task) {
        Exception outcome = null;
        try {
            Handler handler = handlers.get(task.name);
            if (handler == null) {
                System.err.printf("%s %s: no handler for the task \"%s\"%n", task.queue, task.id, task.name);
                throw new Task.Later(Task.UNKNOWN_DELAY);
            }
            handler.handle(task);
        } catch (Exception error) {
            // One that was interrupted has not failed.
            outcome = task.isInterrupted() ? new Task.Later(Duration.ZERO) : error;
        } catch (Error error) {
            outcome = new Exception(error);
        }
        end(task, outcome);
    }

    /** Reports the outcome, again until the server answers. Otherwise the task would run once more. */
    private void end(Task task, Exception outcome) {
        Object[] report;
        synchronized (this) {
            if (!running.remove(task.key(), task)) return;    // finish has returned it
            report = task.report(outcome);
        }
        for (int tries = 0; ; tries++) {
            try {
                redis.ask(report);
                break;
            } catch (IOException error) {
                System.err.printf("%s %s: %s: %s%n", task.queue, task.id, report[0], error.getMessage());
                // It is delivered again when its lease expires.
                if (error instanceof Redis.Refused || tries == 10) return;
                try {
                    Thread.sleep(500);
                } catch (InterruptedException stop) {
                    return;
                }
            }
        }
        String how = outcome == null ? "done" : outcome.getMessage();
        System.err.printf("%s %s: %s, try %d: %s%n", task.queue, task.id, task.name, task.attempt, how);
    }

    private synchronized List<Task> tasks() { return List.copyOf(running.values()); }

    /** Renews the leases of all tasks that run, with one command per queue. */
    private boolean beat() {
        Map<List<String>, List<Task>> held = new HashMap<>();
        for (Task task : tasks()) {
            held.computeIfAbsent(List.of(task.queue, task.consumer), by -> new ArrayList<>()).add(task);
        }
        held.forEach((by, tasks) -> {
            List<Object> command = new ArrayList<>(List.of("TASK.EXTEND", by.get(0), Task.GROUP, by.get(1)));
            for (Task task : tasks) command.add(task.entry);
            long asked = System.nanoTime();
            try {
                Object reply = redis.ask(command.toArray());
                // For one id it is a number instead of an array.
                List<?> renewed = reply instanceof Long one ? List.of(one) : Redis.list(reply);
                for (int i = 0; i < tasks.size(); i++) {
                    Task task = tasks.get(i);
                    if (renewed.get(i).equals(1L)) task.leased(asked, lease);
                    else if (task.consumer.equals(by.get(1))) task.interrupt();    // another worker has it
                }
            } catch (IOException error) {    // again after a third of the lease, until it expires
                System.err.println("TASK.EXTEND: " + error.getMessage());
            }
        });
        return true;
    }

    /** Waits for what runs, interrupts it when the time is up, and returns what still runs. */
    private void finish(ExecutorService threads) throws InterruptedException {
        System.err.printf("stopping: %d tasks run%n", tasks().size());
        threads.shutdown();
        if (threads.awaitTermination(stopAfter.toMillis(), TimeUnit.MILLISECONDS)) return;
        tasks().forEach(Task::interrupt);
        if (threads.awaitTermination(2, TimeUnit.SECONDS)) return;
        for (Task task : tasks()) end(task, new Task.Later(Duration.ZERO));
    }
}
