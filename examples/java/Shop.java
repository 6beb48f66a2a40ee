import com.google.gson.Gson;
import java.io.IOException;
import java.nio.file.*;
import java.util.*;
import java.util.stream.Stream;

/** What the shop does: its products, mails and report. */
final class Shop {
    record Product(String name, int price) {}
    static final class Letter { String to = ""; }
    static final class Newsletter { List<String> to = List.of(); }

    private final Path directory;

    Shop(Path directory) { this.directory = directory; }

    /**
     * A look into the database, a directory. It takes as long as there is a file named `slow`, and fails if there is one
     * named `away`.
     */
    private void query() throws IOException, InterruptedException {
        while (Files.exists(directory.resolve("slow"))) Thread.sleep(20);
        if (Files.exists(directory.resolve("away"))) throw new IOException("the database is away");
    }

    /** Returns null for a product that does not exist, which is cached as well. */
    Product product(int id) throws IOException, InterruptedException {
        System.err.println("loading product " + id);
        query();
        try {
            return new Gson().fromJson(Files.readString(directory.resolve("product-" + id)), Product.class);
        } catch (NoSuchFileException none) {
            return null;
        }
    }

    /** Sends a mail once, although a task may run twice: its id is the same every time. */
    private void send(Task task, String to, String text) throws Exception {
        if (!to.contains("@") || to.contains("/")) throw new Task.Fatal("\"" + to + "\" is no address");
        query();
        Path outbox = Files.createDirectories(directory.resolve("outbox"));
        try {
            Files.writeString(outbox.resolve(task.id + " " + to), text, StandardOpenOption.CREATE_NEW);
        } catch (FileAlreadyExistsException sent) {
            // by an earlier try
        }
    }

    Worker.Handler letter(String text) { return task -> send(task, task.decode(Letter.class).to, text); }

    /** Takes long, so it looks whether it may go on. The next try finds what has been sent. */
    void newsletter(Task task) throws Exception {
        for (String to : task.decode(Newsletter.class).to) {
            send(task, to, "News");
            task.check();
        }
    }

    /** Counts the mails. An older holder, which has been stopped for a while, does not overwrite a newer report. */
    void report(Lock lock) throws Exception {
        System.err.println("report " + lock.fence() + " begins");
        for (int page = 0; page < 5; page++) {
            query();
            lock.check();
        }
        Path file = directory.resolve("report"), outbox = directory.resolve("outbox");
        long mails = 0;
        if (Files.exists(outbox)) {
            try (Stream<Path> sent = Files.list(outbox)) { mails = sent.count(); }
        }
        long newest = Files.exists(file) ? Long.parseLong(Files.readString(file).split(" ")[0]) : 0;
        if (newest > lock.fence()) throw new IOException("there is a newer report");
        System.err.println("report " + lock.fence() + " ends");
        Files.writeString(file, lock.fence() + " " + mails + "\n");
    }
}
