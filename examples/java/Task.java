import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;

/** A task as docs/wire.md describes it, and what becomes of it. */
final class Task {
    static final String GROUP = "workers";
    /** How long a task waits that no handler here knows. During a deploy, a newer worker takes it. */
    static final Duration UNKNOWN_DELAY = Duration.ofSeconds(10);

    /** Sends a task to the dead-letter queue. */
    static final class Fatal extends Exception {
        Fatal(String reason) { super(reason); }
    }

    /** Returns a task that cannot run now. The try does not count. */
    static final class Later extends Exception {
        final Duration delay;

        Later(Duration delay) {
            super("again in " + delay.toMillis() + " ms");
            this.delay = delay;
        }
    }

    /** The lease is lost, or the worker has to stop. */
    static final class Interrupted extends Exception {
        Interrupted() { super("interrupted"); }
    }

    final String queue, name, entry;
    /** The same in every try. */
    final String id;
    /** From 1. */
    final long attempt;
    final Map<String, Object> fields;
    volatile String consumer;    // who has the lease
    private volatile long ends;  // of the lease, by System.nanoTime
    private volatile boolean interrupted;

    /** Reads an element of a reply of TASK.CONSUME … THEN: id, fields, idle_ms, deliveries, queue. */
    Task(List<?> reply, String consumer) {
        this.consumer = consumer;
        entry = Redis.text(reply.get(0));
        fields = Redis.map(reply.get(1));
        queue = Redis.text(reply.get(4));
        name = field("task", "default");
        id = field("original_id", entry);
        long failed;
        try {
            failed = Long.parseLong(field("retry_count", "0"));
        } catch (NumberFormatException error) {
            failed = 0;
        }
        attempt = failed + Redis.number(reply.get(3));
    }

    private String field(String name, String otherwise) {
        String value = Redis.text(fields.get(name));
        return value == null ? otherwise : value;
    }

    String key() { return queue + " " + entry; }

    void leased(long from, Duration lease) { ends = from + lease.toNanos(); }

    void interrupt() { interrupted = true; }

    boolean isInterrupted() { return interrupted || System.nanoTime() - ends >= 0; }

    /** Call this now and then in a task that takes long. */
    void check() throws Interrupted {
        if (isInterrupted()) throw new Interrupted();
    }

    /** Reads the payload, the arguments of the handler by name. */
    <T> T decode(Class<T> type) throws Fatal {
        String kind = field("content-type", "application/json");
        if (!kind.equals("application/json")) throw new Fatal("unknown content-type " + kind);
        JsonElement payload;
        try {
            byte[] bytes = (byte[]) fields.get("payload");
            String text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
            payload = JsonParser.parseString(text);
        } catch (CharacterCodingException | JsonParseException error) {
            throw new Fatal("the payload is not a JSON object: " + error.getMessage());
        }
        if (!payload.isJsonObject()) throw new Fatal("the payload is not a JSON object");
        return new Gson().fromJson(payload, type);
    }

    /** The command that ends a try. */
    Object[] report(Exception outcome) {
        if (outcome == null) return new Object[] {"TASK.ACK", queue, GROUP, entry};
        if (outcome instanceof Fatal) return nack("FATAL", "REASON", outcome.getMessage());
        if (outcome instanceof Later later) return nack("SILENT", "DELAY", later.delay.toMillis());
        return nack("FAIL", "REASON", outcome.getClass().getSimpleName() + ": " + outcome.getMessage());
    }

    private Object[] nack(String how, Object option, Object value) {
        return new Object[] {"TASK.NACK", queue, GROUP, consumer, how, entry, option, value};
    }
}
