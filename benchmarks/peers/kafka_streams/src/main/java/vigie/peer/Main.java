package vigie.peer;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/** The command: reads the four raw topics until `--count` records are processed, and prints one line of figures. */
public final class Main {
    private static final Set<String> OPTIONS =
        Set.of("bootstrap", "job", "count", "territory", "assets", "schemas", "group", "results");
    private static final Duration ANSWER = Duration.ofSeconds(20);
    /** Nothing more comes, yet not everything has been read. */
    private static final Duration STALLED = Duration.ofSeconds(60);

    private Main() { }

    public static void main(String[] arguments) {
        int code = 1;
        try {
            System.out.println(run(options(arguments)));
            code = 0;
        } catch (IllegalArgumentException error) {
            System.err.println(error.getMessage());
            code = 2;
        } catch (Exception error) {
            error.printStackTrace();
        }
        System.out.flush();
        System.exit(code);
    }

    /** Options by name. Throws IllegalArgumentException, which says what is wrong. */
    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i < arguments.length; i += 2) {
            String name = arguments[i].replaceFirst("^--", "");
            if (!arguments[i].startsWith("--") || !OPTIONS.contains(name) || i + 1 == arguments.length) {
                throw new IllegalArgumentException("not an option with a value: " + arguments[i]);
            }
            options.put(name, arguments[i + 1]);
        }
        for (String name : OPTIONS) {
            if (!options.containsKey(name)) {
                throw new IllegalArgumentException("--" + name + " is missing");
            }
        }
        if (!options.get("job").equals("windows")) {
            throw new IllegalArgumentException("this peer does the job windows only");
        }
        return options;
    }

    private static String run(Map<String, String> options) throws Exception {
        long count = Long.parseLong(options.get("count"));
        if (count < 1) {
            throw new IllegalArgumentException("--count must be at least 1");
        }
        Map<Domain, Contract> contracts = new EnumMap<>(Domain.class);
        List<String> topics = new ArrayList<>();
        for (Domain domain : Domain.values()) {
            contracts.put(domain, Contract.read(domain, Path.of(options.get("schemas"))));
            topics.add(domain.topic);
        }
        Places places = Places.read(Path.of(options.get("territory")), Path.of(options.get("assets")),
            LocalDate.now(ZoneOffset.UTC).toString());
        List<String> needed = new ArrayList<>(topics);
        needed.add(options.get("results"));
        checkTopics(options.get("bootstrap"), needed);

        Progress progress = new Progress(count, topics);
        Path state = Files.createTempDirectory("kafka-streams-peer-");
        KafkaStreams streams = new KafkaStreams(
            PeerTopology.build(contracts, places, options.get("results"), progress),
            config(options.get("bootstrap"), options.get("group"), state, progress));
        streams.setUncaughtExceptionHandler(error -> {
            progress.fail(error);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        try {
            streams.start();
            await(progress);
        } finally {
            // Not without a limit: a broker that went away would hold it up.
            streams.close(ANSWER);
            delete(state);
        }
        return String.format(Locale.ROOT, "{\"events\": %d, \"seconds\": %.4f, \"peak_rss_mib\": %.1f, \"stored\": 0}",
            progress.processed.get(), progress.seconds(), peakRssMib());
    }

    private static Properties config(String bootstrap, String group, Path state, Progress progress) {
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, group);
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
        config.put(StreamsConfig.PROCESSING_EXCEPTION_HANDLER_GLOBAL_ENABLED_CONFIG, true);
        config.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        // One core: a second thread would only take turns with the first.
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        // Updates stay in the cache until the commit, every 30 s by default.
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 256L << 20);
        // No result depends on the order of the topics, so no task waits for records of another topic.
        config.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, StreamsConfig.MAX_TASK_IDLE_MS_DISABLED);
        // Large batches from and to Kafka.
        config.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.RECEIVE_BUFFER_CONFIG), 1 << 20);
        config.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        config.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128L << 20);
        config.put(StreamsConfig.producerPrefix(ProducerConfig.SEND_BUFFER_CONFIG), 1 << 20);
        config.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.INTERCEPTOR_CLASSES_CONFIG),
            Progress.Interceptor.class.getName());
        config.put(StreamsConfig.mainConsumerPrefix(Progress.Interceptor.CONFIG), progress);
        return config;
    }

    /** Throws IOException when Kafka does not answer, or has not these topics: Kafka Streams would wait for ever. */
    private static void checkTopics(String bootstrap, List<String> topics) throws IOException, InterruptedException {
        Map<String, Object> config = Map.of(
            AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            AdminClientConfig.REQUEST_TIMEOUT_MS_CONFIG, (int) ANSWER.toMillis() / 2,
            AdminClientConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, (int) ANSWER.toMillis());
        try (Admin admin = Admin.create(config)) {
            admin.describeTopics(topics).allTopicNames().get();
        } catch (ExecutionException error) {
            throw new IOException("Kafka on " + bootstrap + ": " + error.getCause().getMessage(), error.getCause());
        }
    }

    private static void await(Progress progress) throws InterruptedException {
        long seen = -1;
        long changed = System.nanoTime();
        while (!progress.await(Duration.ofSeconds(1))) {
            long now = progress.processed.get() + progress.merged.get();
            if (now != seen) {
                seen = now;
                changed = System.nanoTime();
            } else if (System.nanoTime() - changed > STALLED.toNanos()) {
                throw new IllegalStateException("no record for " + STALLED.toSeconds() + " s, after "
                    + progress.processed.get() + " records");
            }
        }
    }

    /** Largest resident size so far, as Linux has it. */
    private static double peakRssMib() throws IOException {
        try (Stream<String> lines = Files.lines(Path.of("/proc/self/status"))) {
            String line = lines.filter(one -> one.startsWith("VmHWM:")).findFirst().orElseThrow();
            return Long.parseLong(line.replaceAll("\\D", "")) / 1024.0;
        }
    }

    private static void delete(Path folder) throws IOException {
        try (Stream<Path> found = Files.walk(folder)) {
            for (Path path : found.sorted((one, other) -> other.compareTo(one)).toList()) {
                Files.delete(path);
            }
        }
    }
}
