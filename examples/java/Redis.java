import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.BooleanSupplier;

/**
 * As much of a client as the shop needs, without TLS, so that it runs without a library. With Jedis, `ask` and `await`
 * are `sendCommand` and `sendBlockingCommand` of two clients: a pool, and one whose socket time-out is longer.
 */
final class Redis {
    /** An error of the server. Nothing has changed. */
    static final class Refused extends IOException {
        Refused(String message) { super(message); }
    }

    private final URI url;
    private final Deque<Connection> idle = new ConcurrentLinkedDeque<>();
    private final ScheduledExecutorService timer = Executors.newScheduledThreadPool(4, work -> {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        return thread;
    });

    Redis(String url) { this.url = URI.create(url); }

    /** A connection whose replies take `block` longer than usual. */
    Connection connect(Duration block) throws IOException { return new Connection(url, block); }

    /** Sends a command that does not wait. */
    Object ask(Object... command) throws IOException {
        Connection connection = idle.pollFirst();
        if (connection == null) connection = connect(Duration.ZERO);
        try {
            Object reply = connection.call(command);
            idle.addFirst(connection);
            return reply;
        } catch (Refused refused) {
            idle.addFirst(connection);
            throw refused;
        } catch (IOException lost) {
            connection.close();
            for (Connection other; (other = idle.pollFirst()) != null; ) other.close();    // probably lost as well
            throw lost;
        }
    }

    /** Sends a command with BLOCK. It has a connection of its own, so that nothing else has to wait for it. */
    Object await(Duration block, Object... command) throws IOException {
        try (Connection connection = connect(block)) {
            Object[] all = Arrays.copyOf(command, command.length + 2);
            all[command.length] = "BLOCK";
            all[command.length + 1] = block.toMillis();
            return connection.call(all);
        }
    }

    /** Repeats work at intervals, until it returns false or the handle is closed. Then it no longer runs. */
    Handle every(Duration interval, BooleanSupplier work) {
        Object mutex = new Object();
        ScheduledFuture<?>[] future = {null};
        boolean[] stopped = {false};
        Runnable round = () -> {
            synchronized (mutex) {
                if (!stopped[0] && !work.getAsBoolean()) stopped[0] = true;
            }
        };
        future[0] = timer.scheduleAtFixedRate(round, interval.toMillis(), interval.toMillis(), TimeUnit.MILLISECONDS);
        return () -> {
            synchronized (mutex) { stopped[0] = true; }
            future[0].cancel(false);
        };
    }

    interface Handle extends AutoCloseable {
        @Override void close();
    }

    static String text(Object reply) { return reply instanceof byte[] bytes ? new String(bytes, StandardCharsets.UTF_8) : null; }

    static List<?> list(Object reply) { return (List<?>) reply; }

    static long number(Object reply) { return (Long) reply; }

    /** A map, which is a list of names and values in RESP2. */
    static Map<String, Object> map(Object reply) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (Iterator<?> pairs = list(reply).iterator(); pairs.hasNext(); ) map.put(text(pairs.next()), pairs.next());
        return map;
    }

    /** One connection. Texts and simple strings arrive as bytes, integers as Long, arrays as List, nil as null. */
    static final class Connection implements Closeable {
        private final Socket socket = new Socket();
        private final InputStream in;
        private final OutputStream out;

        Connection(URI url, Duration block) throws IOException {
            try {
                socket.connect(new InetSocketAddress(url.getHost(), url.getPort() < 0 ? 6379 : url.getPort()), 1_000);
                socket.setSoTimeout((int) block.toMillis() + 2_000);
                socket.setTcpNoDelay(true);
                in = new BufferedInputStream(socket.getInputStream());
                out = new BufferedOutputStream(socket.getOutputStream());
                if (url.getUserInfo() != null) {
                    String[] user = url.getUserInfo().split(":", 2);
                    call("AUTH", user[0].isEmpty() ? "default" : user[0], user[user.length - 1]);
                }
                if (url.getPath().length() > 1) call("SELECT", url.getPath().substring(1));
            } catch (IOException error) {
                close();
                throw error;
            }
        }

        Object call(Object... command) throws IOException {
            send("*" + command.length);
            for (Object part : command) {
                byte[] bytes = part instanceof byte[] raw ? raw : String.valueOf(part).getBytes(StandardCharsets.UTF_8);
                send("$" + bytes.length);
                out.write(bytes);
                send("");
            }
            out.flush();
            return read();
        }

        private void send(String line) throws IOException { out.write((line + "\r\n").getBytes(StandardCharsets.UTF_8)); }

        private Object read() throws IOException {
            byte[] line = line();
            String rest = new String(line, 1, line.length - 1, StandardCharsets.UTF_8);
            switch (line[0]) {
                case '+': return rest.getBytes(StandardCharsets.UTF_8);
                case '-': throw new Refused(rest);
                case ':': return Long.valueOf(rest);
                case '$': {
                    int length = Integer.parseInt(rest);
                    if (length < 0) return null;
                    byte[] bytes = in.readNBytes(length);
                    if (bytes.length < length || in.readNBytes(2).length < 2) throw new EOFException();
                    return bytes;
                }
                case '*': {
                    int length = Integer.parseInt(rest);
                    if (length < 0) return null;
                    List<Object> items = new ArrayList<>(length);
                    while (items.size() < length) items.add(read());
                    return items;
                }
                default: throw new ProtocolException("unexpected reply: " + rest);
            }
        }

        private byte[] line() throws IOException {
            ByteArrayOutputStream line = new ByteArrayOutputStream();
            for (int next; (next = in.read()) != '\n'; ) {
                if (next < 0) throw new EOFException("the server closed the connection");
                if (next != '\r') line.write(next);
            }
            return line.toByteArray();
        }

        @Override public void close() {
            try { socket.close(); } catch (IOException alreadyClosed) { /* nothing to release */ }
        }
    }
}
