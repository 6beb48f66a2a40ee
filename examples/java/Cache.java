import com.google.gson.Gson;
import com.google.gson.JsonSyntaxException;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.*;

/** Cached values: one load for all processes, stale values while it runs, and no load right after one that failed. */
final class Cache {
    /** The lease of a load is renewed, so it only has to be longer than a pause of this process. */
    record Times(Duration lease, Duration ttl, Duration stale, Duration backOff, Duration patience) {}

    private final Redis redis;
    private final Times times;
    private final Gson gson = new Gson();
    /** Threads of this process that want the same value: each request that waits has a connection. */
    private final ConcurrentMap<String, CompletableFuture<String>> calls = new ConcurrentHashMap<>();

    Cache(Redis redis, Times times) {
        this.redis = redis;
        this.times = times;
    }

    /** The value of a key, loaded if necessary. A cached value is JSON, so other languages can read it. */
    <T> T get(String key, Class<T> type, Callable<T> load) throws Exception {
        Callable<String> encoded = () -> gson.toJson(load.call());
        try {
            return gson.fromJson(once(key, encoded), type);
        } catch (JsonSyntaxException error) {
            System.err.println(key + " does not decode, and is loaded again: " + error.getMessage());
            redis.ask("CACHE.INVALIDATE", key);
            return gson.fromJson(once(key, encoded), type);
        }
    }

    private String once(String key, Callable<String> load) throws Exception {
        CompletableFuture<String> mine = new CompletableFuture<>();
        CompletableFuture<String> other = calls.putIfAbsent(key, mine);
        if (other == null) {
            try {
                mine.complete(fetch(key, load));
            } catch (Throwable error) {
                mine.completeExceptionally(error);
            } finally {
                calls.remove(key, mine);
            }
        }
        try {
            return (other == null ? mine : other).get();
        } catch (ExecutionException failed) {
            if (failed.getCause() instanceof Exception cause) throw cause;
            throw failed;
        }
    }

    private String fetch(String key, Callable<String> load) throws Exception {
        Object[] ask = {"CACHE.FETCH", key, times.lease.toMillis(), "STALE", times.stale.toMillis()};
        List<?> reply;    // status, value, token
        try {
            reply = Redis.list(redis.ask(ask));
            if (Redis.text(reply.get(0)).equals("WAIT")) reply = Redis.list(redis.await(times.patience, ask));
        } catch (IOException error) {    // the server is away, or out of memory
            System.err.println("CACHE.FETCH: " + error.getMessage());
            return load.call();
        }
        String old = Redis.text(reply.get(1));
        return switch (Redis.text(reply.get(0))) {
            case "HIT", "STALE" -> old;
            case "LOAD" -> load(key, reply.get(2), old, load);
            case "FAIL" -> throw new IllegalStateException(key + ": the last load failed: " + old);
            default -> throw new TimeoutException(key + ": not loaded within " + times.patience.toSeconds() + " s");
        };
    }

    private String load(String key, Object token, String old, Callable<String> load) throws Exception {
        String value;
        try (Redis.Handle renewal = redis.every(times.lease.dividedBy(3), () -> extend(key, token))) {
            value = load.call();
        } catch (Exception failure) {
            report("CACHE.FAIL", key, token, "BACKOFF", times.backOff.toMillis(), "REASON", failure.getMessage());
            if (old == null) throw failure;
            System.err.println(key + ": " + failure.getMessage());
            return old;    // stale-if-error
        }
        report("CACHE.SET", key, value, times.ttl.plus(times.stale).toMillis(), "TOKEN", token);
        return value;
    }

    private boolean extend(String key, Object token) {
        try {
            return redis.ask("CACHE.EXTEND", key, token, times.lease.toMillis()).equals(1L);
        } catch (IOException error) {
            return true;    // again after a third of the lease
        }
    }

    private void report(Object... command) {
        try {
            redis.ask(command);
        } catch (IOException error) {
            System.err.println(command[0] + " " + command[1] + ": " + error.getMessage());
        }
    }
}
