import java.io.IOException;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.TimeoutException;

/** A lock: waits in the server's FIFO queue, renews the lease, and tells the work when the lock is lost. */
final class Lock {
    interface Work {
        void run(Lock lock) throws Exception;
    }

    static final class Lost extends Exception {
        Lost() { super("the lock is lost"); }
    }

    private final Redis redis;
    private final String name, me = UUID.randomUUID().toString();
    private final Duration ttl;
    private long fence;
    private volatile long ends;    // by System.nanoTime
    private volatile boolean lost;

    private Lock(Redis redis, String name, Duration ttl) {
        this.redis = redis;
        this.name = name;
        this.ttl = ttl;
    }

    /** It grows with every grant: what the work writes to should refuse a smaller one. */
    long fence() { return fence; }

    /** Call this before each step that only the holder may take. */
    void check() throws Lost {
        if (lost || System.nanoTime() - ends >= 0) throw new Lost();
    }

    /** Runs work while this process holds the lock. */
    static void hold(Redis redis, String name, Duration ttl, Duration wait, Work work) throws Exception {
        Lock lock = new Lock(redis, name, ttl);
        Object[] ask = {"LOCK.ACQUIRE", name, lock.me, ttl.toMillis(), "FENCE"};
        try {
            lock.fence = Redis.number(redis.ask(ask));
            if (lock.fence == 0) lock.fence = Redis.number(redis.await(wait, ask));
            if (lock.fence == 0) throw new TimeoutException(name + " was not granted within " + wait.toSeconds() + " s");
            // The lease has begun before the reply arrived, so the first renewal is due at once.
            lock.ends = System.nanoTime() + ttl.toNanos();
            lock.renew();
            try (Redis.Handle renewal = redis.every(ttl.dividedBy(3), lock::renew)) {
                work.run(lock);
            }
        } finally {
            lock.release();    // also after an error: this identifier may wait in the queue, or have been granted the lock
        }
    }

    private boolean renew() {
        long asked = System.nanoTime();
        try {
            if (redis.ask("LOCK.EXTEND", name, me, ttl.toMillis()).equals(1L)) ends = asked + ttl.toNanos();
            else lost = true;
        } catch (IOException error) {    // again after a third of the lease, until it expires
            System.err.println(name + " is not renewed: " + error.getMessage());
        }
        return !lost;
    }

    private void release() {
        try {
            redis.ask("LOCK.RELEASE", name, me);
        } catch (IOException error) {
            System.err.println(name + " is free when its lease expires: " + error.getMessage());
        }
    }
}
