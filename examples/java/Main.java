import com.google.gson.Gson;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/**
 * A small shop, whose queues and cached values are those of the shops in the other languages.
 *
 * <pre>
 * java Main product 7                                       a cached query
 * java Main publish mail welcome '{"to": "ann@example.org"}'
 * java Main worker                                          sends mails, until SIGTERM or SIGINT
 * java Main report                                          runs under a lock
 * </pre>
 */
final class Main {
    private static final String URGENT = "{shop}:urgent", MAIL = "{shop}:mail";

    public static void main(String[] args) {
        try {
            run(args);
        } catch (Exception error) {
            System.err.println(error.getMessage());
            System.exit(1);
        }
    }

    private static void run(String[] args) throws Exception {
        Redis redis = new Redis(setting("CORRAL_URL", "redis://localhost:6379"));
        Shop shop = new Shop(Path.of(setting("SHOP_DIR", ".")));
        Duration lease = millis("SHOP_LEASE_MS", "10000"), wait = Duration.ofSeconds(30);
        switch (args.length == 0 ? "" : args[0]) {
            case "product" -> {
                int id = Integer.parseInt(args[1]);
                Cache.Times times =
                    new Cache.Times(lease, Duration.ofMinutes(5), Duration.ofHours(1), Duration.ofSeconds(10), wait);
                Shop.Product product = new Cache(redis, times).get("product:" + id, Shop.Product.class, () -> shop.product(id));
                System.out.println(new Gson().toJson(product));
            }
            case "publish" -> {
                Object id = redis.ask("TASK.PUBLISH", "{shop}:" + args[1], args[3], "FIELDS", 1, "task", args[2]);
                System.out.println(Redis.text(id));
            }
            case "report" -> Lock.hold(redis, "{shop}:report", lease, wait, shop::report);
            case "worker" -> {
                Map<String, Worker.Handler> handlers = Map.of(
                    "new_password", shop.letter("Your new password"),
                    "welcome", shop.letter("Welcome"),
                    "newsletter", shop::newsletter);
                Worker worker = new Worker(redis, List.of(URGENT, MAIL), handlers, 4, millis("SHOP_STOP_MS", "25000"));
                // SIGTERM and SIGINT: the process ends when the hook returns.
                Runtime.getRuntime().addShutdownHook(new Thread(() -> {
                    try {
                        worker.stop();
                    } catch (InterruptedException interrupted) {
                        Thread.currentThread().interrupt();
                    }
                }));
                worker.run();
            }
            default -> throw new IllegalArgumentException("expected: product ID | publish QUEUE TASK JSON | report | worker");
        }
    }

    private static String setting(String name, String otherwise) { return System.getenv().getOrDefault(name, otherwise); }

    private static Duration millis(String name, String otherwise) { return Duration.ofMillis(Long.parseLong(setting(name, otherwise))); }
}
