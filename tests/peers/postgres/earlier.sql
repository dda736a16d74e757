BEGIN;
SELECT pg_advisory_xact_lock(7881690371923178100);
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailsluice_owner') THEN CREATE ROLE mailsluice_owner NOLOGIN; END IF; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailsluice_writer') THEN CREATE ROLE mailsluice_writer NOLOGIN; END IF; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailsluice_reader') THEN CREATE ROLE mailsluice_reader NOLOGIN; END IF; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT WHERE pg_has_role('mailsluice_writer', 'mailsluice_owner', 'MEMBER')) THEN GRANT mailsluice_owner TO mailsluice_writer; END IF; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT WHERE pg_has_role(CURRENT_USER, 'mailsluice_owner', 'MEMBER')) THEN GRANT mailsluice_owner TO CURRENT_USER; END IF; END $$;
DO $$ BEGIN GRANT pg_read_all_stats TO mailsluice_owner; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailsluice') THEN CREATE ROLE "mailsluice" LOGIN; END IF; END $$;
DO $$ BEGIN IF NOT EXISTS (SELECT WHERE pg_has_role('mailsluice', 'mailsluice_writer', 'MEMBER')) THEN GRANT mailsluice_writer TO "mailsluice"; END IF; END $$;
DO $$ BEGIN EXECUTE format('GRANT CREATE, CONNECT ON DATABASE %I TO mailsluice_owner', current_database());
EXECUTE format('GRANT CONNECT ON DATABASE %I TO mailsluice_writer, mailsluice_reader', current_database()); END $$;
CREATE SCHEMA IF NOT EXISTS mailsluice AUTHORIZATION mailsluice_owner;
SET ROLE mailsluice_owner;
CREATE TABLE IF NOT EXISTS mailsluice.format (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, id_secret_check text);
INSERT INTO mailsluice.format (version) VALUES (1) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS mailsluice.boxes (
  id uuid PRIMARY KEY, name text NOT NULL, version text NOT NULL, token uuid, started timestamptz NOT NULL, last_seen timestamptz NOT NULL,
  retention_seconds bigint NOT NULL, behind bigint NOT NULL DEFAULT 0, oldest timestamptz, lost bigint NOT NULL DEFAULT 0,
  mended bigint NOT NULL DEFAULT 0, clock_ms bigint NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS mailsluice.records (
  id uuid PRIMARY KEY, box uuid NOT NULL, date timestamptz NOT NULL, sender_ip text NOT NULL, message_id text, sender text NOT NULL,
  recipients text[] NOT NULL, subject text, status integer NOT NULL, response_body text NOT NULL, content_type text, retry_after text,
  processing_time_us bigint NOT NULL, queue_us bigint NOT NULL, forward_us bigint NOT NULL, store_us bigint NOT NULL,
  outcome text NOT NULL, reply text NOT NULL, size bigint NOT NULL, tls text, route text NOT NULL, webhook_id text NOT NULL,
  sender_key text NOT NULL, recipient_keys text[] NOT NULL, message_key text
) PARTITION BY RANGE (id);
CREATE INDEX IF NOT EXISTS records_webhook ON mailsluice.records (webhook_id, outcome);
CREATE INDEX IF NOT EXISTS records_deferred ON mailsluice.records (id) WHERE outcome = 'deferred';
CREATE INDEX IF NOT EXISTS records_rejected ON mailsluice.records (id) WHERE outcome = 'rejected';
CREATE INDEX IF NOT EXISTS records_sender ON mailsluice.records (sender_key, id);
CREATE INDEX IF NOT EXISTS records_message ON mailsluice.records (message_key);
CREATE INDEX IF NOT EXISTS records_recipients ON mailsluice.records USING gin (recipient_keys) WITH (fastupdate = off);
CREATE TABLE IF NOT EXISTS mailsluice.records_other PARTITION OF mailsluice.records DEFAULT;
CREATE TABLE IF NOT EXISTS mailsluice.latency (
  minute timestamptz NOT NULL, box uuid NOT NULL, stage text NOT NULL, route text NOT NULL DEFAULT '', histogram bytea NOT NULL,
  PRIMARY KEY (minute, box, stage, route));
CREATE TABLE IF NOT EXISTS mailsluice.erasures (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text, asked timestamptz NOT NULL DEFAULT now(), done timestamptz,
  records bigint NOT NULL DEFAULT 0, trouble text);
CREATE TABLE IF NOT EXISTS mailsluice.signatures (
  erasure bigint NOT NULL REFERENCES mailsluice.erasures ON DELETE CASCADE, box uuid NOT NULL, signed timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (erasure, box));
CREATE TABLE IF NOT EXISTS mailsluice.rewrites (part text PRIMARY KEY, noted timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE OR REPLACE VIEW mailsluice.log AS
  SELECT r.*, b.name AS box_name FROM mailsluice.records r LEFT JOIN mailsluice.boxes b ON b.id = r.box ORDER BY r.id DESC;
CREATE OR REPLACE VIEW mailsluice.undelivered AS
  SELECT DISTINCT ON (r.webhook_id) r.*, b.name AS box_name FROM mailsluice.records r LEFT JOIN mailsluice.boxes b ON b.id = r.box
  WHERE r.outcome = 'deferred'
    AND NOT EXISTS (SELECT FROM mailsluice.records s WHERE s.webhook_id = r.webhook_id AND s.outcome IN ('delivered', 'rejected'))
  ORDER BY r.webhook_id, r.id DESC;
ALTER TABLE mailsluice.records ALTER COLUMN sender_ip SET STATISTICS 0, ALTER COLUMN message_id SET STATISTICS 0, ALTER COLUMN sender SET STATISTICS 0, ALTER COLUMN recipients SET STATISTICS 0, ALTER COLUMN subject SET STATISTICS 0, ALTER COLUMN response_body SET STATISTICS 0, ALTER COLUMN content_type SET STATISTICS 0, ALTER COLUMN retry_after SET STATISTICS 0, ALTER COLUMN reply SET STATISTICS 0, ALTER COLUMN tls SET STATISTICS 0, ALTER COLUMN route SET STATISTICS 0, ALTER COLUMN sender_key SET STATISTICS 0, ALTER COLUMN recipient_keys SET STATISTICS 0, ALTER COLUMN message_key SET STATISTICS 0;
ALTER TABLE mailsluice.records_other ALTER COLUMN sender_ip SET STATISTICS 0, ALTER COLUMN message_id SET STATISTICS 0, ALTER COLUMN sender SET STATISTICS 0, ALTER COLUMN recipients SET STATISTICS 0, ALTER COLUMN subject SET STATISTICS 0, ALTER COLUMN response_body SET STATISTICS 0, ALTER COLUMN content_type SET STATISTICS 0, ALTER COLUMN retry_after SET STATISTICS 0, ALTER COLUMN reply SET STATISTICS 0, ALTER COLUMN tls SET STATISTICS 0, ALTER COLUMN route SET STATISTICS 0, ALTER COLUMN sender_key SET STATISTICS 0, ALTER COLUMN recipient_keys SET STATISTICS 0, ALTER COLUMN message_key SET STATISTICS 0;
ALTER TABLE mailsluice.erasures ALTER COLUMN address SET STATISTICS 0;
GRANT USAGE ON SCHEMA mailsluice TO mailsluice_writer, mailsluice_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mailsluice TO mailsluice_writer;
GRANT SELECT ON mailsluice.records, mailsluice.boxes, mailsluice.latency, mailsluice.format, mailsluice.log, mailsluice.undelivered TO mailsluice_reader;
RESET ROLE;
COMMIT;
